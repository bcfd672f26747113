"""A denoiser of latents, as the loop trains it."""

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import nn

from ... import seeds
from ...autoencoders.codec import Autoencoder
from ...conditioning.conditioning import Conditioning, drop
from ...conditioning.crops import CROP
from ...conditioning.encoder_dropout import drop_encoders, require_encoders
from ...conditioning.registry import conditioning_of
from ...conditioning.text import TextConditioning
from ...denoisers import registry as denoisers
from ...denoisers.config import DenoiserConfig
from ...diffusion.conditions import Cond
from ...diffusion.consistency import PROGRESS
from ...diffusion.denoisers import Network
from ...diffusion.dispersive import dispersed, tap_of
from ...diffusion.names import CONSISTENCY
from ...diffusion.objective import WEIGHTS, FixedNoise, Objective
from ...distributed import processes
from ...errors import ConfigError
from ...images.crops import chosen_crops
from ...latents.dataset import CroppedDataset, LatentSets, held_out, weights_of
from ...pipeline.drawing import DenoisingGenerator
from ...pipeline.generation import Sampling, as_trained
from ...pipeline.loading import training_objective
from ...pipeline.model import Guidance, Model, guided
from ...pipeline.settings import Student
from ...system.compile import maybe_compile, should_compile
from ...system.precision import Policy
from ...system.transfer import split_batch, to_device
from ...training import loop
from ...training.preview import draw_preview, write_preview
from .settings import DenoiserTraining

VALIDATION_SAMPLES = 1024
_CROP_SHARE = 0.5  # where there are crops, and no other share is given
LEVELS = (0.0, 0.4, 0.8, 1.0, 1.2, 1.6, 2.0)  # of noise, where one level is trained: multiples of it that are shown
Data = tuple[torch.Tensor, dict[str, torch.Tensor], Cond]  # x0, what was drawn for it, and conditions


def network_config(
    config: DenoiserTraining, latent_shape: Sequence[int], conditioning: Conditioning, crops: bool = False
) -> DenoiserConfig:
    """Return the network that the settings and the latents ask for. Raises ConfigError if they do not fit together.

    crops: whether the latents have some.
    """
    denoisers.require_fields(config.model.family, conditioning)
    require_encoders(conditioning, config.encoder_dropout)
    channels, *size = latent_shape
    sizes = conditioning.sizes
    if crop_share(config, crops):
        sizes = {**sizes, "scalars": (*sizes.get("scalars", ()), CROP)}
    network = config.model.network_config(
        latent_channels=channels,
        latent_size=tuple(size),
        label_dropout=config.label_dropout if conditioning.has_null else 0.0,
        learn_sigma=config.diffusion.learn_variance,
        **sizes,
    )
    assert isinstance(network, DenoiserConfig)
    if CROP in network.scalars:
        denoisers.require_crops(network)
    return network


def crop_share(config: DenoiserTraining, crops: bool) -> float:
    """Return the share of images of which training sees a crop. crops: whether the latents have some.

    Raises ConfigError where a share was asked for, and they have none.
    """
    if config.crop_share and not crops:
        raise ConfigError(f"`crop_share={config.crop_share:g}`: the latents have no crops", "encode with `crops=4`")
    return (_CROP_SHARE if config.crop_share is None else config.crop_share) if crops else 0.0


class DenoisingTask:
    """Denoising of latents, as `core.training.loop` trains it. autoencoder: None draws no previews."""

    student: Student | None = None

    def __init__(
        self,
        config: DenoiserTraining,
        network: DenoiserConfig,
        latents: LatentSets,
        autoencoder: Autoencoder | None,
        policy: Policy,
    ) -> None:
        self.config, self.policy, self.autoencoder, self.latents = config, policy, autoencoder, latents
        self.num_samples = len(self.latents.train)
        self.conditioning = conditioning_of({"conditioning": latents.conditioning.describe()}, config.label_dropout)
        self.objective: Objective = training_objective(config.diffusion)

        # Weights depend on the seed alone: neither on the data nor on the device.
        seeds.seed_everything(config.seed, "denoiser weights")
        # A network to be sharded moves to the device part by part, which need not hold all of it.
        shards = config.train.shard and processes.world().size > 1
        built = denoisers.build(network)
        self.network = built if shards else built.to(policy.device)
        self.network.checkpointing = config.model.checkpointing
        flops = self.network.training_flops * config.train.images
        wanted = should_compile(config.machine.compile, flops, policy.device, self.network.uniform)
        maybe_compile(self.network, wanted, policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"denoiser": self.network}
        self.synchronous = False

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the classes of the latents."""
        return self.latents.labels()

    def load(self, batch: loop.Batch) -> Data:
        """Return latents, what is drawn for them, and conditions; all follows from the seed and stream positions."""
        seed, positions, train = self.config.seed, batch.positions, self.latents.train
        x0, cropped = self._latents(batch)

        # Noise and times: a purpose each, so that adding a draw leaves the others as they are.
        given = self.objective.draw(
            normal=lambda purpose: seeds.normal(seed, purpose, positions, train.shape),
            uniform=lambda purpose: seeds.uniform(seed, purpose, positions),
        )

        if (weights := weights_of(train, batch.samples, positions, seed)) is not None:
            given[WEIGHTS] = weights

        # Conditions, some replaced by the null for classifier-free guidance (Ho & Salimans 2022).
        cond = train.cond(batch.samples, positions, seed) | cropped
        given[PROGRESS] = torch.from_numpy(positions / self.config.train.images)
        if shares := self.config.encoder_dropout:
            assert isinstance(self.conditioning, TextConditioning)
            draws = [seeds.uniform(seed, f"dropout of encoder {place}", positions) for place in range(len(shares))]
            return x0, given, drop_encoders(self.conditioning, cond, draws, shares)
        dropped = seeds.uniform(seed, "label dropout", positions)
        return x0, given, drop(self.conditioning, cond, dropped, self.config.label_dropout)

    def split(self, data: Data, parts: int) -> list[Data]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Data) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        weight = self.config.dispersive_weight
        if not weight:
            return self._errors(data, self.network).mean(), {}
        spread: list[torch.Tensor] = []
        network = dispersed(self.network, tap_of(len(self.network.blocks)), spread)
        errors = self._errors(data, network).mean()
        dispersion = torch.stack(spread).mean()
        return errors + weight * dispersion, {"dispersive_loss": dispersion.detach()}

    def after_step(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    def validate(self) -> dict[str, float]:
        """Return the loss on held-out latents, at times that cover the schedule evenly; see `held_out`."""
        total, count = 0.0, 0
        # Times and noise are fixed, so that two lines differ by the weights only; nothing is dropped.
        for batch in held_out(self.latents.val, VALIDATION_SAMPLES):
            given = self.objective.draw(normal=batch.normal, uniform=batch.uniform)
            given |= {} if batch.weights is None else {WEIGHTS: batch.weights}
            with torch.no_grad(), self.policy.autocast():
                total += float(self._errors((batch.x0, given, batch.cond), self.network).sum())
            count += len(batch.x0)
        return {"val_loss": total / count}

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write a grid of samples, one row per class, always of the same seeds; or, of one noise level, denoised."""
        if self.config.diffusion.draws:
            images, names = self._preview()
            write_preview(folder, images_seen, images, names, self.config.preview.per_class)
        else:
            write_preview(folder, images_seen, *self._denoised())

    def model(self) -> Model:
        """Return the model as sampling sees it."""
        assert self.autoencoder is not None, "previews need an autoencoder"
        return Model(
            student=self.student,
            network=self.network,
            autoencoder=self.autoencoder,
            diffusion=self.config.diffusion,
            latent_shape=self.latents.train.shape,
            conditioning=self.conditioning,
        )

    def generator(self, sampling: Sampling) -> DenoisingGenerator:
        """Return the model as what draws samples."""
        return DenoisingGenerator(self.model(), sampling, self.policy)

    def _latents(self, batch: loop.Batch) -> tuple[torch.Tensor, Cond]:
        """Return latents (B, C, h, w), some of crops where there are any, and then the condition of these."""
        samples, positions, seed = batch.samples, batch.positions, self.config.seed
        if CROP not in self.network.config.scalars:
            return self.latents.train.batch(samples, positions, seed), {}
        train = cast(CroppedDataset, self.latents.train)
        crops = chosen_crops(positions, seed, train.num_crops, crop_share(self.config, crops=True))
        x0, conditions = train.cropped(samples, positions, seed, crops)
        return x0, {CROP: conditions}

    def _denoised(self) -> tuple[np.ndarray, list[str], list[str]]:
        """Return held-out images with noise of several levels, each above what one denoising step makes of it.

        The network always works at the level that it was trained at: the others show what it makes of unseen ones.
        """
        model, objective = self.model(), self.objective
        assert isinstance(objective, FixedNoise)
        held = next(held_out(self.latents.val, self.config.preview.per_class))
        x0, noise, cond = to_device((held.x0, held.noise, held.cond), self.policy.device)
        denoise = guided(model, Guidance(), self.policy).denoise
        t = torch.tensor(objective.time, dtype=torch.float64)
        alpha = float(objective.schedule.alpha_sigma(t)[0])
        levels = [share * objective.sigma for share in LEVELS]
        noised = [x0 + level * noise for level in levels]
        rows = [noised, [denoise(alpha * x, t, cond) for x in noised]]
        shown = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (B, 2, levels, C, h, w)
        images = model.decode(shown.flatten(0, 2), self.policy)
        return images, ["noised", "denoised"] * len(x0), [f"σ {level:.3g}" for level in levels]

    def _preview(self) -> tuple[np.ndarray, list[str]]:
        """Draw the preview, guided only where there is a null to guide from."""
        preview = self.config.preview
        cfg = preview.cfg if self.conditioning.has_null else 1.0
        diffusion = self.config.diffusion
        steps = None if diffusion.objective == CONSISTENCY else min(preview.steps, diffusion.most_steps)
        sampling = as_trained(Sampling(steps=steps, cfg=cfg), diffusion)
        return draw_preview(self.generator(sampling), self.conditioning, preview)

    def _errors(self, data: Data, network: Network) -> torch.Tensor:
        """Return each sample's loss, float32 (B,)."""
        x0, given, cond = to_device(data, self.policy.device)
        return self.objective.loss(network, x0, given, cond)
