"""What images are drawn from, a denoiser with its sampler, and from which seeds."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..conditioning.conditioning import Conditioning
from ..conditioning.registry import conditioning_of
from ..denoisers import registry as denoisers
from ..diffusion.conditions import Cond
from ..diffusion.names import CONSISTENCY
from ..errors import ConfigError
from ..files import sha256_json
from ..runs.inputs import as_input
from ..runs.run import StageRun
from ..settings.fields import defaults, identity, read_seeds
from ..system.compile import maybe_compile
from ..system.precision import Policy
from .asking import with_encoders
from .caching import OUTER
from .generation import Edit, Sampling, as_trained, check, check_clip, chunk_size, evaluations, generate, sampling_of
from .generator import Generator, OnStep, refuse_settings
from .loading import diffusion_of, load_model, open_denoiser, open_guides, state_of, student_of, with_guides
from .model import Model, one_condition
from .settings import Drawing, Seeded, TokenDrawing
from .students import TAKES, sampling_of_student, with_scale

_OF_CONSISTENCY = (
    *("denoiser", "checkpoint", "cfg", "cfg_paper", "cfg_interval", "cfg_rescale", "cfg_channels", "away_from"),
    *("steps", "shift", "clip"),
)


@dataclass(frozen=True)
class DenoisingGenerator:
    """A denoiser and how it is sampled: a `Generator`. on_latents: given those of what is drawn, as `generate` does."""

    model: Model
    sampling: Sampling
    policy: Policy
    on_latents: Callable[[Tensor], None] | None = None

    @property
    def at_once(self) -> int:
        return chunk_size(self.model.shape_at(self.sampling.image_size), self.policy)

    def draw(
        self, cond: Cond, seeds: np.ndarray, on_step: OnStep | None = None, edit: Edit | None = None
    ) -> np.ndarray:
        """Return an image for each seed; see `Generator` and `generate`."""

        def show(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            assert on_step is not None, "called only with on_step"
            on_step(step, lambda: {"x_t": self.decode(x), "x0 estimate": self.decode(x0)})

        # The guidance of a student is inside of its network.
        sampling = self.sampling if self.model.student is None else replace(self.sampling, cfg=1.0)
        cond, shown = self.whole(cond, len(seeds)), show if on_step else None
        return generate(self.model, cond, seeds, sampling, self.policy, shown, edit, self.on_latents)

    def whole(self, cond: Cond, count: int) -> Cond:
        """Return the condition of `count` images as the network takes it: of a student also the guidance scale."""
        student = self.model.student
        return cond if student is None else with_scale(student, cond, self.sampling.cfg, count)

    def encode(self, images: np.ndarray) -> Tensor:
        """Return latents, on the device, of images, uint8 (B, H, W, C)."""
        return self.model.encode(images, self.policy)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return images, uint8 (B, H, W, C)."""
        return self.model.decode(latents, self.policy)


@dataclass(frozen=True)
class OpenedDenoiser:
    """A denoiser stage and what guides it: an `Opened`. takes: the settings of drawing that it takes."""

    source: StageRun
    guides: dict[str, StageRun]
    conditioning: Conditioning
    sampling: Sampling
    label: str
    takes: Collection[str] = tuple(Drawing.model_fields)
    shows_steps = True

    @property
    def settings(self) -> dict[str, Any]:
        return {name: value for name, value in self._how.items() if name in self.takes}

    @property
    def _how(self) -> dict[str, Any]:
        return {**self.sampling.recorded, "steps": self.sampling.num_steps}

    @property
    def evaluations(self) -> int:
        if student_of(self.source) is not None:
            return self.sampling.num_steps  # Guidance is inside.
        return evaluations(self.sampling, diffusion_of(self.source))[0]

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return them as inputs of the stage in `folder`."""
        return {role: as_input(run, folder) for role, run in {"denoiser": self.source, **self.guides}.items()}

    def generator(self, config: Drawing, policy: Policy) -> DenoisingGenerator:
        """Load the networks, to be drawn from as the settings say."""
        return DenoisingGenerator(self.load(config, policy), self.sampling, policy)

    def with_settings(self, generator: Generator) -> DenoisingGenerator:
        """Return a loaded generator of the same networks that draws as the settings say."""
        assert isinstance(generator, DenoisingGenerator), "loaded from the same directories"
        return replace(generator, sampling=self.sampling)

    def load(self, config: Drawing, policy: Policy) -> Model:
        """Load the networks, compiled if so wished."""
        model = replace(load_model(self.source, config, policy), conditioning=self.conditioning)
        model = with_guides(model, self.guides, config, policy)
        # With a cache, other blocks stand in the place of some at some steps: they are compiled one by one.
        for part in model.network.blocks if config.cache > 1 else [model.network]:
            maybe_compile(part, bool(config.machine.compile), policy.device)
        return model

    def recorded(self, seed: int) -> dict[str, Any]:
        """Return what a manifest records of how images were drawn."""
        return {**self._how, "seed": seed, **state_of(self.source)}


def open_model(config: Drawing) -> OpenedDenoiser:
    """Open the denoiser that the settings draw from. Raises ConfigError where it does not support them."""
    refuse_settings(config, TokenDrawing, (), "a denoiser")
    source = open_denoiser(config.denoiser, config, config.checkpoint)
    diffusion, conditioning = diffusion_of(source), with_encoders(conditioning_of(source.metadata), config)
    channels, student = source.metadata["latent_shape"][0], student_of(source)
    if student is not None:
        sampling = sampling_of_student(config, student)
        label = f"cfg-{sampling.cfg:g}_distilled{student.steps}"
        return OpenedDenoiser(source, {}, conditioning, sampling, label, TAKES)
    takes = OpenedDenoiser.takes
    if diffusion.objective == CONSISTENCY:
        takes = _OF_CONSISTENCY
        refuse_settings(config, Drawing, takes, "a consistency model")
    has_negative = conditioning.has_null or config.away_from is not None
    sampling = as_trained(sampling_of(config, has_negative), diffusion).on(diffusion.most_steps)
    check(sampling, diffusion, has_negative, channels)
    check_clip(sampling, of_pixels=source.metadata["image_size"] == source.metadata["latent_shape"][1])
    steps = config.steps if config.steps is not None else ""
    label = f"cfg-{sampling.cfg:g}_{sampling.sampler}{steps}"
    if config.away_from is not None:
        one_condition(conditioning, "away_from", config.away_from)
    guides = open_guides(source, config, guides_from_null=sampling.cfg != 1 and config.away_from is None)
    if config.cache > 1:
        denoisers.require_equal_blocks(source.path / "final", f"`cache={config.cache}`", 2 * OUTER + 1)
    if config.image_size is not None:
        for role, network in {"denoiser": source, **guides}.items():
            if role == "classifier":
                _check_classifier(config.image_size, network, source)
            else:
                _check_size(config.image_size, network)
    return OpenedDenoiser(source, guides, conditioning, sampling, label, takes)


def _check_size(image_size: int, network: StageRun) -> None:
    """Refuse images of another size than a network was trained on where it takes no other. Raises ConfigError."""
    trained, (_, rows, columns) = network.metadata["image_size"], network.metadata["latent_shape"]
    if rows != columns:
        raise ConfigError(f"`image_size={image_size}`: {network.path} draws no squares", "leave it out")
    if image_size == trained:
        return
    denoisers.require_any_size(network.path / "final", f"`image_size={image_size}`", f"{trained} pixels")
    height, rest = divmod(image_size * rows, trained)
    if rest:
        what = f"`image_size={image_size}` is not a multiple of {trained // rows}, the autoencoder's downsampling"
        raise ConfigError(what, f"use {image_size - image_size % (trained // rows) or trained // rows}")
    denoisers.read_config(network.path / "final").replace(latent_size=(height, image_size * columns // trained))


def _check_classifier(image_size: int, classifier: StageRun, source: StageRun) -> None:
    """Refuse images of which the latents are not of the one size that a classifier knows. Raises ConfigError."""
    trained, known = source.metadata["image_size"], classifier.metadata["latent_shape"][1:]
    if [image_size * side // trained for side in source.metadata["latent_shape"][1:]] != [*known]:
        raise ConfigError(
            f"`image_size={image_size}`: {classifier.path} knows latents of {known[0]} x {known[1]} alone",
            "leave it out, or `classifier_scale`",
        )


def image_seeds(config: Seeded, groups: int) -> np.ndarray:
    """Return the seeds of the images of each of so many classes, int64 (groups, n).

    Those that are listed, for every class the same; else `num` for each, all one after the other.
    """
    if config.seeds is None:
        return consecutive(config.seed, config.num * groups).reshape(groups, config.num)
    return np.tile(np.array(read_seeds(config.seeds), dtype=np.int64), (groups, 1))


def seeds_in_words(seeds: np.ndarray) -> str:
    """Return seeds (groups, n) for a summary: the first and the last, or all that are few."""
    listed = np.unique(seeds).tolist()
    if listed == [*range(listed[0], listed[-1] + 1)]:
        return f"{listed[0]} to {listed[-1]}" if len(listed) > 1 else str(listed[0])
    return ", ".join(map(str, listed[:10])) + (f", … {listed[-1]}" if len(listed) > 10 else "")


def consecutive(first: int, count: int) -> np.ndarray:
    """Return seeds one after the other, int64 (count,). Raises ConfigError where there are not so many."""
    if first + count > 2**63:
        raise ConfigError(f"`seed={first}` is too large for {count:,} images: seeds end at 2^63", "give a smaller one")
    return first + np.arange(count, dtype=np.int64)


def settings_digest(config: Drawing, contents: Mapping[str, str] | None = None) -> str:
    """Return a few letters that differ for other settings and contents; a setting by default does not change them."""
    default = identity(defaults(type(config), config.model_dump()))
    given = {name: value for name, value in identity(config).items() if value != default[name]}
    return sha256_json([given, dict(contents or {})])[:6]


def folder_label(config: Drawing, beginning: str, inputs: dict[str, dict[str, Any]]) -> str:
    """Return a readable folder name, different for other settings and other contents of the inputs."""
    readable = "".join(c if c.isalnum() or c in "-," else "_" for c in beginning)[:40]
    contents = {name: each["fingerprint"] for name, each in inputs.items()}
    return f"{readable}_{settings_digest(config, contents)}"
