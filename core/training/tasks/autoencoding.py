"""An autoencoder with a codebook, as the loop trains it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ... import seeds
from ...autoencoders import losses, registry
from ...autoencoders.codec import Autoencoder
from ...autoencoders.discriminator import Discriminator, layers_for
from ...autoencoders.lpips import LPIPS
from ...autoencoders.quantizers import Assignment, perplexity, usage
from ...autoencoders.vq import VQVAE
from ...distributed import processes
from ...images.decode import as_tensor, as_uint8, write_png
from ...images.grid import grid, scale_for
from ...images.loader import ImageLoader
from ...images.order import spread, stream
from ...images.sets import ImageSets
from ...metrics.image import psnr, ssim
from ...settings.fields import dump
from ...system.compile import maybe_compile
from ...system.precision import Policy
from ...system.transfer import to_device
from ...training import loop
from .settings import AutoencoderTraining

VALIDATION_IMAGES = 512
CODEBOOK_IMAGES = 256


class AutoencodingTask:
    """Reconstruction through a codebook, optionally against a discriminator, as `core.training.loop` trains it."""

    def __init__(self, config: AutoencoderTraining, images: ImageSets, policy: Policy) -> None:
        self.config, self.images, self.policy = config, images, policy
        self.num_samples = len(images.train)
        seeds.seed_everything(config.seed, "autoencoder weights")
        settings = dump(config.model)
        size = config.data.image_size
        self.vqvae = VQVAE(registry.preset(settings.pop("preset"), settings)).to(policy.device)
        self.autoencoder = Autoencoder(self.vqvae).to(policy.device)
        self.autoencoder.latent_shape(size)
        self.lpips = LPIPS(config.loss.lpips).to(policy.device) if config.loss.lpips else None
        self.averaged: nn.Module = self.vqvae
        self.networks: dict[str, nn.Module] = {"autoencoder": self.vqvae}
        self.synchronous = True  # The codebook moves with them.
        if config.loss.adversarial_weight:
            self.networks["discriminator"] = Discriminator(num_layers=layers_for(size)).to(policy.device)
        self.modules: nn.Module = nn.ModuleDict(self.networks)
        for part in (self.vqvae.encoder, self.vqvae.decoder):
            maybe_compile(part, bool(config.machine.compile), policy.device)
        self.assignments: list[Assignment] = []
        self.decoded: list[torch.Tensor] = []
        self.clock = 0
        first = stream(config.seed, 0, min(CODEBOOK_IMAGES, self.num_samples), self.num_samples)
        generator = seeds.torch_generator(config.seed, "codebook")
        self.vqvae.initialise_codebook(as_tensor(images.train.batch(first)).to(policy.device), generator)

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, int]:
        """Return images, some of them mirrored, and the clock."""
        images = as_tensor(self.images.train.batch(batch.samples))
        if self.config.data.flip:
            mirrored = seeds.uniform(self.config.seed, "flip", batch.positions) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        return images, batch.images_seen

    def split(self, data: tuple[torch.Tensor, int], parts: int) -> list[Any]:
        return [(images, data[1]) for images in data[0].chunk(parts)]

    def loss(self, role: str, data: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, self.clock = to_device(data[0], self.policy.device), data[1]
        return self._reconstruction_loss(images) if role == "autoencoder" else self._discriminator_loss(images)

    def after_step(self, accepted: bool) -> None:
        """Move the codebook after a step that counts, by the vectors of all processes."""
        if accepted:
            generator = seeds.torch_generator(self.config.seed, "dead codes", self.clock)
            everyones = [
                Assignment(processes.all_gather_rows(each.vectors), processes.all_gather_rows(each.indices))
                for each in self.assignments
            ]
            self.vqvae.quantizer.update(everyones, generator)
            processes.broadcast_from_main(self.vqvae.quantizer.state_dict().values())
        self.assignments.clear()
        self.decoded.clear()

    def validate(self) -> dict[str, float]:
        """Return PSNR, SSIM and the use of the codebook on held-out images."""
        counts = torch.zeros(self.vqvae.config.codebook_size, dtype=torch.int64)

        def reconstruct(images: torch.Tensor) -> torch.Tensor:
            out = self.vqvae(images)
            counts.add_(out.quantised.counts.cpu())
            return out.images

        quality = reconstruction_quality(reconstruct, self.images.val, self.policy)
        return quality | {"val_usage": float(usage(counts)), "val_perplexity": float(perplexity(counts))}

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write the fixed held-out images above their reconstructions."""
        write_reconstructions(self.autoencoder, self.images.val, self.config.pictures, self.policy, folder, images_seen)

    def _reconstruction_loss(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pixels, perception and codebook; and the discriminator's opinion once that counts."""
        settings = self.config.loss
        out = self.vqvae(images)
        self.assignments.append(out.quantised.assignment)
        pixel = losses.RECONSTRUCTION[settings.reconstruction](out.images.float(), images)
        numbers = {"pixel_loss": pixel, "perplexity": out.quantised.perplexity, "usage": out.quantised.usage}
        reconstruction = pixel
        if self.lpips is not None:
            numbers["lpips"] = self.lpips(out.images, images).mean()
            reconstruction = reconstruction + settings.lpips_weight * numbers["lpips"]
        loss = reconstruction + out.quantised.loss
        if self._adversarial:
            self.decoded.append(out.images.detach())
            opinion = losses.generator_loss(self.networks["discriminator"](out.images))
            weight = losses.adaptive_weight(reconstruction, opinion, self.vqvae.last_layer)
            loss = loss + settings.adversarial_weight * weight * opinion
        return loss, numbers

    def _discriminator_loss(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Tell this pass's images from their reconstructions; a loss without gradient before it counts."""
        if not self._adversarial:
            return torch.zeros((), device=self.policy.device), {}
        discriminator = self.networks["discriminator"]
        return losses.hinge_discriminator_loss(discriminator(images), discriminator(self.decoded.pop(0))), {}

    @property
    def _adversarial(self) -> bool:
        return "discriminator" in self.networks and self.clock >= self.config.loss.adversarial_start


@torch.no_grad()
def reconstruction_quality(
    reconstruct: Callable[[torch.Tensor], torch.Tensor], images: ImageLoader, policy: Policy
) -> dict[str, float]:
    """Return mean PSNR (dB) and SSIM of some held-out images, always the same ones, after 8-bit rounding."""
    chosen = spread(len(images), VALIDATION_IMAGES)
    signal, structure = 0.0, 0.0
    for _, pixels in images.in_turn(64, chosen):
        originals = as_tensor(pixels)
        with policy.autocast():
            decoded = reconstruct(originals.to(policy.device)).float()
        decoded = as_tensor(as_uint8(decoded.cpu()))
        signal += float(psnr(decoded, originals).sum())
        structure += float(ssim(decoded, originals).sum())
    return {"val_psnr": signal / len(chosen), "val_ssim": structure / len(chosen)}


@torch.no_grad()
def write_reconstructions(
    autoencoder: Autoencoder, images: ImageLoader, count: int, policy: Policy, folder: Path, images_seen: int
) -> None:
    """Write some held-out images, always the same ones, above their reconstructions."""
    originals = images.batch(spread(len(images), count))
    batch = as_tensor(originals).to(policy.device)
    with policy.autocast():
        decoded = autoencoder.decode(autoencoder.encode(batch)).float()
    picture = grid(
        np.concatenate([originals, as_uint8(decoded.cpu())]),
        columns=len(originals),
        row_labels=["original", "decoded"],
        scale=scale_for(originals),
    )
    (folder / "reconstructions").mkdir(exist_ok=True)
    write_png(folder / "reconstructions" / f"{images_seen:010d}.png", picture)
