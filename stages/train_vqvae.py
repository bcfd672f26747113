"""`ldm train-vqvae`: images in, an autoencoder with measured latents out."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..core import parallel, seeds
from ..core.autoencoders import losses, registry
from ..core.autoencoders.discriminator import Discriminator, layers_for
from ..core.autoencoders.interface import Autoencoder
from ..core.autoencoders.lpips import LPIPS
from ..core.autoencoders.quantizers import Assignment, perplexity, usage
from ..core.autoencoders.statistics import LatentStatistics
from ..core.autoencoders.vqvae import VQVAE
from ..core.data.grid import grid, scale_for
from ..core.data.images import as_tensor, as_uint8, write_png
from ..core.data.loading import ImageLoader
from ..core.data.order import spread, stream
from ..core.errors import ConfigError
from ..core.metrics.image import psnr, ssim
from ..core.precision import Policy, maybe_compile
from ..core.progress import Outcome, Progress
from ..core.training import loop
from ..core.transfer import sent
from .configs import TrainVQVAE
from .handover import claim, command_line, dump, occupied, output_folder
from .image_sets import ImageSets, image_sources

VALIDATION_IMAGES = 512
CODEBOOK_IMAGES = 256


def run(config: TrainVQVAE, progress: Progress) -> Outcome:
    """Train an autoencoder, or take a finished one, and measure its latents. Returns where it lies."""
    folder = output_folder(config, "train-vqvae")
    with occupied(folder, config.machine, config.train if config.autoencoder is None else None) as policy:
        given = _given(config)
        sources = image_sources(config.data)
        inputs = sources.inputs
        if config.autoencoder is not None:
            fingerprint = registry.fingerprint(config.autoencoder)
            inputs["autoencoder"] = {"path": config.autoencoder.as_posix(), "fingerprint": fingerprint}
        work = claim(folder, "train-vqvae", config, inputs)
        next_commands = [command_line("encode", config)]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        facts: dict[str, Any] = {"trained": config.autoencoder is None}
        images = sources.read(progress)
        if given is None:
            task = AutoencodingTask(config, images, policy)
            facts |= loop.train(task, _plan(config), policy, folder, progress)
            autoencoder = task.autoencoder
        else:
            autoencoder = given.to(policy.device)
        if not parallel.world().leads:
            return Outcome(folder)
        if given is not None:
            write_reconstructions(autoencoder, images.val, config.pictures, policy, folder, 0)
        facts |= _measure(autoencoder, images, policy, progress)
        facts |= {"class_names": list(images.class_names), "image_size": config.data.image_size}
        registry.save(autoencoder, folder / "final")
        work.commit(sorted(f"final/{path.name}" for path in (folder / "final").iterdir()), facts)
    summary = {
        "reconstruction": f"PSNR {facts['val_psnr']:.2f} dB, SSIM {facts['val_ssim']:.4f} on held-out images",
        "latents": " × ".join(map(str, facts["latent_shape"])),
    }
    pictures = sorted((folder / "reconstructions").glob("*.png"))[-1:]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _given(config: TrainVQVAE) -> Autoencoder | None:
    """Load the autoencoder to take, if one was named. Raises ConfigError for a network that does not fit the size.

    Before any image is read: reading may take long.
    """
    if config.autoencoder is not None:
        if not config.autoencoder.is_dir():
            raise ConfigError(f"--autoencoder {config.autoencoder} is no folder", "give one of a ready autoencoder")
        given = registry.load(config.autoencoder)
        given.latent_shape(config.data.image_size)
        return given
    settings = dump(config.model)
    with torch.device("meta"):
        registry.build(registry.preset(settings.pop("preset"), settings)).latent_shape(config.data.image_size)
    return None


def _plan(config: TrainVQVAE) -> loop.Plan:
    every = config.train.validate_every
    return loop.Plan(**config.train.model_dump(), seed=config.seed, picture_every=every)


def _measure(autoencoder: Autoencoder, images: ImageSets, policy: Policy, progress: Progress) -> dict[str, Any]:
    """Measure the latents' mean and deviation on the training images and give them to the autoencoder."""
    measured = LatentStatistics(autoencoder.latent_channels)
    progress.start("measuring latents", len(images.train), "images")
    with torch.no_grad():
        for indices, pixels in images.train.in_turn(64):
            batch = as_tensor(pixels).to(policy.device)
            with policy.autocast():
                measured.add(autoencoder.codec.to_latent(batch))
            progress.update(int(indices[-1]) + 1)
    progress.finish()
    autoencoder.normalise_by(measured)
    return {
        "latent_shape": list(autoencoder.latent_shape(images.train.prepare.image_size)),
        "latent_mean": autoencoder.latent_mean.tolist(),
        "latent_std": autoencoder.latent_std.tolist(),
        **reconstruction_quality(_reconstruction_by(autoencoder), images.val, policy),
    }


def _reconstruction_by(autoencoder: Autoencoder) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda images: autoencoder.decode(autoencoder.encode(images))


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


class AutoencodingTask:
    """Reconstruction through a codebook, optionally against a discriminator, as `core.training.loop` trains it."""

    def __init__(self, config: TrainVQVAE, images: ImageSets, policy: Policy) -> None:
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
        self.players: dict[str, nn.Module] = {"autoencoder": self.vqvae}
        self.heeds_verdicts = True  # The codebook moves with them.
        if config.loss.adversarial_weight:
            self.players["discriminator"] = Discriminator(num_layers=layers_for(size)).to(policy.device)
        self.modules: nn.Module = nn.ModuleDict(self.players)
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

    def loss(self, player: str, data: tuple[torch.Tensor, int]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, self.clock = sent(data[0], self.policy.device), data[1]
        return self._reconstruction_loss(images) if player == "autoencoder" else self._discriminator_loss(images)

    def stepped(self, accepted: bool) -> None:
        """Move the codebook after a step that counts, by the vectors of all processes."""
        if accepted:
            generator = seeds.torch_generator(self.config.seed, "dead codes", self.clock)
            everyones = [
                Assignment(parallel.gather_rows(each.vectors), parallel.gather_rows(each.indices))
                for each in self.assignments
            ]
            self.vqvae.quantizer.update(everyones, generator)
            parallel.follow_leader(self.vqvae.quantizer.state_dict().values())
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
            opinion = losses.generator_loss(self.players["discriminator"](out.images))
            weight = losses.adaptive_weight(reconstruction, opinion, self.vqvae.last_layer)
            loss = loss + settings.adversarial_weight * weight * opinion
        return loss, numbers

    def _discriminator_loss(self, images: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Tell this pass's images from their reconstructions; a loss without gradient before it counts."""
        if not self._adversarial:
            return torch.zeros((), device=self.policy.device), {}
        discriminator = self.players["discriminator"]
        return losses.hinge_discriminator_loss(discriminator(images), discriminator(self.decoded.pop(0))), {}

    @property
    def _adversarial(self) -> bool:
        return "discriminator" in self.players and self.clock >= self.config.loss.adversarial_start
