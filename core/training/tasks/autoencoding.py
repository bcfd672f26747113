"""An autoencoder of any trainable family, as the loop trains it: pixels, perception, and a discriminator."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ... import seeds
from ...autoencoders import equivariance, losses, registry
from ...autoencoders.codec import Autoencoder, Codec, Draws, TokenCodec, TrainableCodec, train_only, untouched
from ...autoencoders.discriminator import Discriminator, layers_for
from ...autoencoders.lpips import LPIPS
from ...autoencoders.settings import SMALLEST_FOR_LPIPS
from ...images.decode import as_tensor, as_uint8, write_png
from ...images.grid import grid, scale_for
from ...images.loader import ImageLoader, training_images
from ...images.order import spread, stream
from ...images.sets import ImageSets
from ...images.weights import loss_weights, training_masks
from ...metrics.image import psnr, ssim
from ...system.compile import maybe_compile
from ...system.precision import Policy
from ...system.transfer import to_device
from ...training import loop
from .prior import write_prior_samples
from .settings import AutoencoderTraining

VALIDATION_IMAGES = 512
FIRST_IMAGES = 256  # from which the codec is initialised


Data = tuple[torch.Tensor, Draws, torch.Tensor | None]  # images, draws, masks where they count


class AutoencodingTask:
    """Reconstruction by a codec, optionally against a discriminator, as `core.training.loop` trains it.

    Only the part that the settings name is trained; the others do not change.
    """

    def __init__(self, config: AutoencoderTraining, images: ImageSets, policy: Policy) -> None:
        self.config, self.images, self.policy = config, images, policy
        self.num_samples = len(images.train)
        seeds.seed_everything(config.seed, "autoencoder weights")

        # Networks: the codec, LPIPS and the discriminator of its images.
        size = config.data.size
        self.autoencoder = registry.build(registry.config_of(config.model, config.data.channels)).to(policy.device)
        self.autoencoder.latent_shape(size)
        if config.loss.equivariance:
            as_they_are = config.loss.lpips is not None and config.loss.lpips_size is None
            equivariance.require_halves(self.autoencoder, size, SMALLEST_FOR_LPIPS if as_they_are else 1)
        codec = self.autoencoder.codec
        assert isinstance(codec, TrainableCodec) and isinstance(codec, nn.Module), f"{codec.kind} is not trained"
        self.codec: TrainableCodec = codec
        self.lpips = LPIPS(config.loss.lpips, config.loss.lpips_size).to(policy.device) if config.loss.lpips else None

        # Only the codec is the result, so the EMA follows nothing else. The discriminator steps second: it reuses
        # the reconstructions of the codec's pass.
        self.averaged: nn.Module = codec
        self.networks: dict[str, nn.Module] = {"autoencoder": codec}
        self.synchronous = codec.synchronous
        if config.loss.adversarial_weight:
            discriminator = Discriminator(num_layers=layers_for(min(size)), in_channels=config.data.channels)
            self.networks["discriminator"] = discriminator.to(policy.device)
        self.modules: nn.Module = nn.ModuleDict(self.networks)

        # Train one part, and compile what the codec offers for it.
        self.frozen = train_only(codec, config.part)
        for unit in codec.compile_units:
            maybe_compile(unit, bool(config.machine.compile), policy.device)

        # What one step's passes leave for `after_step` and for the discriminator.
        self.observed: list[Any] = []
        self.decoded: list[tuple[torch.Tensor, torch.Tensor]] = []  # images, and their reconstructions
        self.images_seen = 0

        # Some codecs start from data: a codebook of random codes would leave most of them dead.
        first = stream(config.seed, 0, min(FIRST_IMAGES, self.num_samples), self.num_samples)
        first_images = as_tensor(images.train.batch(first)).to(policy.device)
        codec.initialise(first_images, Draws(config.seed, 0, np.arange(len(first))))

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the classes of the images."""
        source = self.images.train.source
        return (source.labels, source.class_names) if source.labelled else None

    def load(self, batch: loop.Batch) -> Data:
        """Return images, some of them mirrored, the step's draws, and the images' masks, where these count."""
        seed, flips = self.config.seed, self.config.data.flip
        images = training_images(self.images.train, batch.samples, batch.positions, seed, flips)
        masks = None
        if self.config.data.masks:
            masks = training_masks(self.images.train, batch.samples, batch.positions, seed, flips)
        return images, Draws(self.config.seed, batch.images_seen, batch.positions), masks

    def split(self, data: Data, parts: int) -> list[Any]:
        masks = [None] * parts if data[2] is None else data[2].chunk(parts)
        return list(zip(data[0].chunk(parts), data[1].split(parts), masks, strict=True))

    def loss(self, role: str, data: Data) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, masks = to_device((data[0], data[2]), self.policy.device)
        draws = data[1]
        self.images_seen = draws.images_seen
        # The loop puts everything into train mode before a step; frozen norms must not follow the data.
        for module in self.frozen:
            module.eval()
        if role == "discriminator":
            return self._discriminator_loss()
        return self._reconstruction_loss(images, draws, masks)

    def after_step(self, accepted: bool) -> None:
        """Update the codec after an accepted step."""
        if accepted and self.synchronous:
            self.codec.after_step(self.observed, Draws(self.config.seed, self.images_seen, np.empty(0, np.int64)))
        self.observed.clear()
        self.decoded.clear()

    def validate(self) -> dict[str, float]:
        """Return PSNR and SSIM on held-out images, and the codec's own numbers."""
        observed: list[Any] = []

        def reconstruct(images: torch.Tensor) -> torch.Tensor:
            out = self.codec(images)
            observed.append(out.observed)
            return out.images

        quality = reconstruction_quality(reconstruct, self.images.val, self.policy)
        return quality | {f"val_{name}": number for name, number in self.codec.summarise(observed).items()}

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write the fixed held-out images above their reconstructions, and images from the prior of the latents."""
        write_pictures(self.autoencoder, self.images.val, self.config.pictures, self.policy, folder, images_seen)

    def _reconstruction_loss(
        self, images: torch.Tensor, draws: Draws, masks: torch.Tensor | None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Pixels, perception, the codec's own term, and the adversarial loss once it is active."""
        settings = self.config.loss
        change = equivariance.drawn(settings.equivariance, draws)
        out = self.codec(images, draws, change or untouched)
        if self.synchronous:
            self.observed.append(out.observed)

        # Pixels in fp32, perception, and the codec's own term.
        decoded = out.images
        if change is not None:
            images, masks = change(images), None if masks is None else change(masks)
        if masks is None:
            pixel = losses.RECONSTRUCTION[settings.reconstruction](decoded.float(), images)
        else:
            pixel = losses.masked_loss(settings.reconstruction, decoded.float(), images, loss_weights(masks))
            # What looks at more than a pixel sees the original where nothing counts.
            decoded = images + masks * (decoded.float() - images)
        numbers = {"pixel_loss": pixel, **out.numbers}
        reconstruction = pixel
        if self.lpips is not None:
            numbers["lpips"] = self.lpips(decoded, images).mean()
            reconstruction = reconstruction + settings.lpips_weight * numbers["lpips"]
        loss = reconstruction + out.loss

        # The generator's side, weighted so that its gradient at the last layer is as large as the reconstruction's
        # (Esser et al. 2021, equation 7). `decoded` saves the discriminator a second pass of the codec.
        if self._adversarial:
            self.decoded.append((images, decoded.detach()))
            adversarial = losses.generator_loss(self.networks["discriminator"](decoded))
            weight = losses.adaptive_weight(reconstruction, adversarial, self.codec.last_layer)
            loss = loss + settings.adversarial_weight * weight * adversarial
            numbers |= {"adversarial_loss": adversarial, "adaptive_weight": weight}
        return loss, numbers

    def _discriminator_loss(self) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Separate this pass's images from their reconstructions; a loss without gradient before it is active."""
        if not self._adversarial:
            return torch.zeros((), device=self.policy.device), {}
        discriminator = self.networks["discriminator"]
        images, decoded = self.decoded.pop(0)
        return losses.hinge_discriminator_loss(discriminator(images), discriminator(decoded)), {}

    @property
    def _adversarial(self) -> bool:
        return "discriminator" in self.networks and self.images_seen >= self.config.loss.adversarial_start


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
        # Measure what a file would hold: 8-bit pixels.
        decoded = as_tensor(as_uint8(decoded.cpu()))
        signal += float(psnr(decoded, originals).sum())
        structure += float(ssim(decoded, originals).sum())
    return {"val_psnr": signal / len(chosen), "val_ssim": structure / len(chosen)}


def write_pictures(
    autoencoder: Autoencoder, images: ImageLoader, count: int, policy: Policy, folder: Path, images_seen: int
) -> None:
    """Write `count` reconstructions of held-out images, and as many images from the prior where there is one."""
    write_reconstructions(autoencoder, images, count, policy, folder, images_seen)
    write_prior_samples(autoencoder, images, count, policy, folder, images_seen)


def _from_first_maps(codec: Codec, images: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what the first maps of tokens decode to, by the sides of these; nothing where there is one map."""
    tokens = codec.tokens(images) if isinstance(codec, TokenCodec) else []
    several = range(1, len(tokens))
    return {f"up to {tokens[k - 1].shape[-1]}": codec.decode(codec.from_tokens(tokens[:k])) for k in several}  # type: ignore[attr-defined]


@torch.no_grad()
def write_reconstructions(
    autoencoder: Autoencoder, images: ImageLoader, count: int, policy: Policy, folder: Path, images_seen: int
) -> None:
    """Write some held-out images, always the same ones, above their reconstructions.

    Of a codec with several maps of tokens, those of the first maps stand between, coarse to fine.
    """
    originals = images.batch(spread(len(images), count))
    batch = as_tensor(originals).to(policy.device)
    with policy.autocast():
        rows = {**_from_first_maps(autoencoder.codec, batch), "decoded": autoencoder(batch)}
    picture = grid(
        np.concatenate([originals, *(as_uint8(decoded.float().clamp(-1, 1).cpu()) for decoded in rows.values())]),
        columns=len(originals),
        row_labels=["original", *rows],
        scale=scale_for(originals),
    )
    (folder / "reconstructions").mkdir(exist_ok=True)
    write_png(folder / "reconstructions" / f"{images_seen:010d}.png", picture)
