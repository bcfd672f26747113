"""A generator that is not a denoiser: the mean image of each class, coarse to fine, and speckle of an image's own seed.

As a next-scale model would, it draws one scale after the other; there is no noise level, sampler or latent.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from torch.nn.functional import adaptive_avg_pool2d, interpolate

from ldm.core import seeds
from ldm.core.conditioning.conditioning import Conditioning
from ldm.core.conditioning.labels import LABELS, LabelConditioning
from ldm.core.conditioning.registry import conditioning_of, recorded
from ldm.core.diffusion.conditions import Cond
from ldm.core.images.decode import as_tensor, as_uint8
from ldm.core.images.sets import image_sources
from ldm.core.pipeline.generator import Generator, OnStep, refuse_settings
from ldm.core.pipeline.settings import Drawing
from ldm.core.progress import Silent
from ldm.core.runs.inputs import as_input, open_own
from ldm.core.runs.outputs import claim
from ldm.core.runs.roles import Role, role_of
from ldm.core.runs.run import StageRun
from ldm.core.system.precision import Policy
from ldm.stages.configs import TrainVQVAE

KIND = "means"
ROLE = Role("means", {KIND: "train-means"}, "Generator", draws="toy_generator:open_means")
TAKES = ("denoiser", "checkpoint", "steps")
MEANS = "means.safetensors"


class TrainMeans(TrainVQVAE):
    """Settings of its training: which images."""

    command, kind = "train-means", KIND


def train(config: TrainMeans) -> StageRun:
    """Write the directory of a generator: the mean image of each class, (K, 3, S, S)."""
    sources = image_sources(config.data)
    folder = config.root / KIND
    folder.mkdir(parents=True)
    work = claim(folder, config, sources.inputs, Silent())
    loader = sources.read(Silent()).train
    images = as_tensor(loader.batch(np.arange(len(loader)))).numpy()
    means = [images[loader.labels == label].mean(0) for label in range(len(loader.source.class_names))]
    save_file({"means": np.stack(means)}, folder / MEANS)
    conditioning = LabelConditioning(loader.source.class_names, has_null=False)
    return work.commit([MEANS], {**recorded(conditioning), "image_size": config.data.image_size})


@dataclass(frozen=True)
class Means:
    """A `Generator`."""

    means: torch.Tensor
    steps: int
    at_once: int = 5

    def draw(self, cond: Cond, seeds_: np.ndarray, on_step: OnStep | None = None) -> np.ndarray:
        whole = self.means[cond[LABELS]]
        side = whole.shape[-1]
        for start in range(0, len(seeds_), self.at_once):
            for step in range(self.steps) if on_step else ():
                coarse = adaptive_avg_pool2d(whole[start : start + self.at_once], 2**step)
                on_step(step, lambda scale=coarse: {"scale": as_uint8(interpolate(scale, side))})
        speckle = [seeds.normal(int(seed), "speckle", [0], tuple(whole.shape[1:])) for seed in seeds_]
        return as_uint8((whole + 0.1 * torch.cat(speckle)).clamp(-1, 1))


@dataclass(frozen=True)
class OpenedMeans:
    """An `Opened`."""

    source: StageRun
    conditioning: Conditioning
    steps: int
    shows_steps: bool = True

    @property
    def label(self) -> str:
        return f"scales{self.steps}"

    @property
    def settings(self) -> dict[str, Any]:
        return {"steps": self.steps}

    @property
    def evaluations(self) -> int:
        return self.steps

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        return {ROLE.name: as_input(self.source, folder)}

    def generator(self, config: Drawing, policy: Policy) -> Means:
        self.source.verify()
        return Means(torch.from_numpy(load_file(self.source.path / MEANS)["means"]), self.steps)

    def with_settings(self, generator: Generator) -> Means:
        assert isinstance(generator, Means)
        return Means(generator.means, self.steps)

    def recorded(self, seed: int) -> dict[str, Any]:
        return {"sampler": "coarse-to-fine", "steps": self.steps, "cfg": 1.0, "seed": seed}


def open_means(config: Drawing) -> OpenedMeans:
    """Open it, and refuse the settings of denoisers."""
    refuse_settings(config, Drawing, TAKES, "class means")
    source = open_own(role_of(KIND), config, config.denoiser, "denoiser")
    return OpenedMeans(source, conditioning_of(source.metadata), config.steps or 3)
