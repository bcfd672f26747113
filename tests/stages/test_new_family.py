"""A family of denoisers is a config, a network and one line in a table: all stages take it as they are."""

import shutil
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ldm.core.denoisers import registry
from ldm.core.denoisers.config import DenoiserConfig
from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.network import DenoiserNetwork
from ldm.core.diffusion.conditions import Cond
from ldm.core.errors import ConfigError
from ldm.core.interchange.exporters import denoiser_exporter
from ldm.core.progress import Silent
from ldm.core.runs.run import MANIFEST
from ldm.core.settings.families import Family
from ldm.core.settings.fields import option
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Pipeline, manifest, pngs


class ConvConfig(DenoiserConfig):
    """A few convolutions in a row."""

    presets: ClassVar = {"conv-s": {"channels": 16}}
    default_preset: ClassVar[str] = "conv-s"
    sizes: ClassVar[str] = "conv-s"

    channels: int = option(..., "Channels of the maps.", ge=4)
    num_convs: int = option(2, "Convolutions.", ge=1, le=8)

    def check(self) -> None:
        if min(self.size) < 3:
            raise ConfigError(f"latents of {self.size} are smaller than a kernel", "give larger images")

    @property
    def num_blocks(self) -> int:
        return self.num_convs


class Conv(DenoiserNetwork):
    """Each convolution adds to the map; time and label shift its channels."""

    fields = ("labels",)
    config: ConvConfig

    def __init__(self, config: ConvConfig) -> None:
        super().__init__()
        self.config, width = config, config.channels
        self.first = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.label = nn.Embedding(config.num_classes + config.has_null, width)
        self.time = nn.Linear(2, width)
        self.blocks = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(config.num_convs))
        self.last = nn.Conv2d(width, config.out_channels, 1)
        nn.init.zeros_(self.last.weight)

    @property
    def training_flops(self) -> float:
        height, width = self.config.size
        return 6.0 * height * width * sum(p.numel() for p in self.blocks.parameters())

    def prepare(self, cond: Cond) -> Cond:
        return {"shift": self.label(cond["labels"])}

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond, taps: tuple[int, ...] = ()) -> Any:
        shift = cond["shift"] if "shift" in cond else self.label(cond["labels"])
        angles = torch.stack([(3 * t).cos(), (3 * t).sin()], dim=1)
        maps = self.first(x_t) + (shift + self.time(angles))[..., None, None]
        hidden = {}
        for i, block in enumerate(self.blocks):
            maps = maps + block(torch.relu(maps))
            if i in taps:
                hidden[i] = maps
        out = self.last(maps).to(x_t.dtype)
        return (out, hidden) if taps else out


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from ldm.cli.keys import settings_of

    monkeypatch.setitem(FAMILIES, "conv", Family(ConvConfig, "test_new_family:Conv"))
    settings_of.cache_clear()
    yield
    settings_of.cache_clear()


@pytest.mark.usefixtures("registered")
def test_a_new_family_trains_resumes_samples_and_verifies_through_the_same_stages(copied: Pipeline) -> None:
    shutil.rmtree(copied.folder / "dit")
    settings = {"model": {"preset": "conv-s", "num_convs": 3}, "train__lr": 1e-3}
    copied.run("train-denoiser", **settings)
    denoiser = copied.folder / "denoiser"
    final = denoiser / "final"
    assert type(registry.load(final)).__name__ == "Conv"
    assert manifest(denoiser)["facts"]["images_seen"] == 64

    # Interrupted half-way, and run again: the same weights.
    whole = load_file(final / "model.safetensors")
    (denoiser / MANIFEST).unlink()
    shutil.rmtree(final)
    shutil.rmtree(denoiser / "checkpoints" / "0000000064")
    copied.run("train-denoiser", **settings)
    resumed = load_file(final / "model.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())

    # Guided samples, which are the same one by one; and all of the run is as it should be.
    several = copied.run("sample", num=2, cfg=2.0, label="several").directory
    alone = copied.run("sample", num=1, cfg=2.0, classes="blue", label="alone").directory
    assert len(pngs(several)) == 6 and pngs(alone)["000000.png"] == pngs(several)["000000.png"]
    assert verify.run(Verify(path=copied.folder), Silent()).verdict == "is whole"


@pytest.mark.usefixtures("registered")
def test_settings_of_another_family_and_forms_that_it_has_not_are_refused_by_its_name() -> None:
    with pytest.raises(ConfigError, match="the conv family has no class in diffusers"):
        denoiser_exporter(Conv(ConvConfig(latent_channels=4, latent_size=4, num_classes=2, channels=8)))
    with pytest.raises(ConfigError, match="smaller than a kernel"):
        ConvConfig(latent_channels=4, latent_size=2, num_classes=2, channels=8)
