"""A condition that comes with the images is a few classes and a line in two tables: all stages take it as they are."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.core.conditioning import registry
from ldm.core.conditioning.captions import Fields, Take
from ldm.core.conditioning.conditioning import NoConditioning, Request, no_null
from ldm.core.denoisers.families import FAMILIES
from ldm.core.diffusion.conditions import Cond
from ldm.core.images.dataset import ImageSource
from ldm.core.images.sets import ImageSources
from ldm.core.latents import conditions
from ldm.core.latents.shards import load_shard
from ldm.core.progress import Progress, Silent
from ldm.core.runs.run import MANIFEST
from ldm.core.settings.families import Family
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.stages.test_new_family import Conv, ConvConfig
from tests.support.pipeline_run import Pipeline, manifest, pngs

NUMBER = "number"  # the kind, and the field of a condition
STORED = "number.npy"


@dataclass(frozen=True)
class NumberConditioning(NoConditioning):
    """A number between 0 and 1 for each image, which nobody can ask for; the null is -1."""

    has_null: bool = True
    kind = NUMBER
    fields = (NUMBER,)
    stored = (STORED,)

    def null(self, n: int, device: torch.device) -> Cond:
        if not self.has_null:
            raise no_null()
        return {NUMBER: torch.full((n,), -1.0, device=device)}

    def read(self, take: Take, positions: np.ndarray, seed: int) -> Cond:
        return {NUMBER: torch.from_numpy(np.stack(take(STORED)).astype(np.float32))}

    def groups(self) -> Request:
        numbers = (0.0, 0.5, 1.0)
        records = tuple({NUMBER: number} for number in numbers)
        return Request({NUMBER: torch.tensor(numbers)}, tuple(map(str, numbers)), records)

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind, "has_null": self.has_null}


def number_of(name: str) -> float:
    """Return the number of an image, by its name."""
    return int(Path(name).stem) / 40


class Numbers:
    """The numbers of images, out of their names; see `ImageCondition`."""

    mirrors: ClassVar[bool] = True

    def __init__(self, images: ImageSources, settings: object, device: torch.device) -> None:
        self.images, self.inputs = images, dict[str, dict[str, Any]]()

    @property
    def fingerprint(self) -> str:
        return str(self.images.as_input["fingerprint"])

    def conditioning(
        self, train: ImageSource, val: ImageSource, progress: Progress | None = None
    ) -> NumberConditioning:
        return NumberConditioning()

    def names(self, conditioning: Any) -> tuple[str, ...]:
        return (STORED,)

    def fields(self, conditioning: Any, source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
        return lambda indices: [({STORED: np.float32(number_of(source.names[index]))}, {}) for index in indices]

    def summary(self, conditioning: Any, source: ImageSource) -> dict[str, str]:
        return {"numbers": f"{len(source):,}"}


class NumberConv(Conv):
    """A few convolutions that take a number in place of a label."""

    fields = (NUMBER,)

    def __init__(self, config: ConvConfig) -> None:
        super().__init__(config)
        self.label = nn.Linear(1, config.channels)

    def prepare(self, cond: Cond) -> Cond:
        return {"shift": self.label(cond[NUMBER][:, None])}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        return super().forward(x_t, t, cond if "shift" in cond else self.prepare(cond), taps)


class NumberConvConfig(ConvConfig):
    presets: ClassVar = {"number-conv-s": {"channels": 16}}
    default_preset: ClassVar[str] = "number-conv-s"


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from ldm.cli.keys import settings_of

    monkeypatch.setitem(FAMILIES, "number-conv", Family(NumberConvConfig, "test_new_condition:NumberConv"))
    monkeypatch.setitem(registry.KINDS, NUMBER, lambda described: NumberConditioning(described["has_null"]))
    monkeypatch.setitem(conditions.KINDS, NUMBER, conditions.Kind(lambda images, kind: kind != "labels", Numbers))
    settings_of.cache_clear()
    yield
    settings_of.cache_clear()


@pytest.mark.usefixtures("registered")
def test_a_new_condition_is_encoded_trained_on_drawn_and_verified_by_the_same_stages(copied: Pipeline) -> None:
    for stage in ("latents", "dit"):
        shutil.rmtree(copied.folder / stage)
    outcome = copied.run("encode")
    assert outcome.next_commands[0].endswith("--preset number-conv-s")
    _, samples = load_shard(copied.folder / "latents" / "shard-000000.tar", 0)
    assert all(sample.arrays[STORED] == np.float32(number_of(sample.name)) for sample in samples)
    facts = manifest(copied.folder / "latents")["facts"]
    assert outcome.summary["numbers"] == str(facts["samples"]["train"])
    assert facts["conditioning"] == {"kind": NUMBER, "has_null": True} and facts["fields"][STORED]["shape"] == []

    # Interrupted half-way, and run again: the same weights.
    copied.run("train-denoiser", model={"preset": "number-conv-s"}, train__lr=1e-3)
    denoiser = copied.folder / "denoiser"
    whole = load_file(denoiser / "final" / "model.safetensors")
    assert whole["label.weight"].shape == (16, 1)
    (denoiser / MANIFEST).unlink()
    shutil.rmtree(denoiser / "final")
    shutil.rmtree(denoiser / "checkpoints" / "0000000064")
    copied.run("train-denoiser", model={"preset": "number-conv-s"}, train__lr=1e-3)
    resumed = load_file(denoiser / "final" / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())

    # Guided samples, which say their numbers; and all of the run is as it should be.
    drawn = copied.run("sample", num=2, cfg=2.0, label="numbers").directory
    assert drawn is not None and len(pngs(drawn)) == 6
    assert [image[NUMBER] for image in manifest(drawn)["facts"]["images"]] == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"
