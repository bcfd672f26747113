"""A second family beside the first: its presets, its own settings, and what is refused."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError
from torch import nn

from ldm.cli.layers import merged_config
from ldm.cli.reference import settings_page
from ldm.cli.schema import recipe_schema
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.settings import DenoiserModel
from ldm.core.errors import ConfigError
from ldm.core.settings.families import Family, NetworkConfig, section_of
from ldm.core.settings.fields import defaults, identity, option
from ldm.core.training.settings import ClassifierTrain, Train
from ldm.stages.configs import TrainDiT


class CombConfig(NetworkConfig):
    """A network of teeth, which has no tokens; its depth means what a DiT's does."""

    presets: ClassVar = {"comb-s": {"teeth": 3}, "comb-l": {"teeth": 9, "depth": 4}}
    default_preset: ClassVar[str] = "comb-s"
    sizes: ClassVar[str] = "comb-s, comb-l"

    latent_channels: int
    teeth: int = option(..., "Teeth of the comb.", ge=2)
    depth: int = option(2, "Blocks.", ge=1, le=8)

    def check(self) -> None:
        if self.teeth < self.depth:
            raise ConfigError(f"{self.teeth} teeth are fewer than {self.depth} blocks", "give more")


class Comb(nn.Linear):
    def __init__(self, config: CombConfig) -> None:
        super().__init__(config.teeth, config.latent_channels)


@pytest.fixture
def two_families(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    from ldm.cli.keys import settings_of

    monkeypatch.setitem(FAMILIES, "comb", Family(CombConfig, "test_families:Comb"))
    settings_of.cache_clear()
    yield
    settings_of.cache_clear()


def model(**values: Any) -> DenoiserModel:
    return DenoiserModel.model_validate(values)


@pytest.mark.usefixtures("two_families")
def test_a_preset_names_its_family() -> None:
    assert model(preset="comb-l").network_config(latent_channels=2) == CombConfig(latent_channels=2, teeth=9, depth=4)
    assert model(preset="Comb-S", depth="3").network_config(latent_channels=2).model_dump()["depth"] == 3
    assert isinstance(model().network_config(latent_channels=4, latent_size=8, num_classes=2), DiTConfig)


@pytest.mark.usefixtures("two_families")
def test_a_setting_of_another_family_is_refused_with_the_familys_own() -> None:
    with pytest.raises(ConfigError) as said:
        merged_config("train-dit", overrides=["model.preset=comb-s", "model.width=64"])
    assert "model.width is 64: not a setting of the comb family; it has teeth, depth" in said.value.message
    with pytest.raises(ConfigError, match=r"teeth.*not a setting of the dit family.*it has patch_size, width"):
        merged_config("train-dit", overrides=["model.teeth=3"])


@pytest.mark.usefixtures("two_families")
def test_null_takes_a_setting_of_another_family_out_of_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "wide.yaml"
    recipe.write_text("train-dit:\n  model: {preset: dit-xs, width: 64, heads: 2}\n")
    changed = ["model.preset=comb-s", "model.width=null", "model.heads=null"]
    config = merged_config("train-dit", str(recipe), changed).config
    assert config.model == merged_config("train-dit", overrides=changed[:1]).config.model
    with pytest.raises(ConfigError, match=r"model\.width"):
        merged_config("train-dit", str(recipe), [changed[0], changed[2]])


@pytest.mark.usefixtures("two_families")
def test_limits_are_those_of_the_presets_family() -> None:
    assert model(depth=9).network_config(latent_channels=4, latent_size=8, num_classes=2).model_dump()["depth"] == 9
    with pytest.raises(ValidationError, match="less than or equal to 8"):
        model(preset="comb-s", depth=9)
    with pytest.raises(ConfigError, match="fewer than 5 blocks"):
        model(preset="comb-s", depth=5).network_config(latent_channels=2)


@pytest.mark.usefixtures("two_families")
def test_a_run_of_one_family_is_not_another_run_for_the_settings_of_others() -> None:
    config = TrainDiT.model_validate({"model": {"preset": "comb-l", "depth": 3}})
    assert identity(config)["model"] == {"preset": "comb-l", "teeth": None, "depth": 3}
    assert identity(defaults(TrainDiT, identity(config)))["model"] == {"preset": "comb-l", "teeth": None, "depth": None}


@pytest.mark.usefixtures("two_families")
def test_an_unknown_preset_is_refused_with_the_nearest_of_any_family() -> None:
    with pytest.raises(ConfigError, match="did you mean comb-l"):
        merged_config("train-dit", overrides=["model.preset=kcomb-l"])


@pytest.mark.usefixtures("two_families")
def test_the_schema_of_recipes_and_the_page_of_settings_have_the_settings_of_both() -> None:
    properties = recipe_schema(["train-dit"])["properties"]["train-dit"]["properties"]["model"]["properties"]
    assert {"preset", "width", "teeth", "depth"} <= properties.keys()
    page = settings_page()
    # A setting that not all families have is shown with those that do.
    assert "| `model.teeth` (comb) |" in page and re.search(r"\| `model.width` \(dit, [^)]*\) \|", page)
    assert re.search(r"\| `model.depth` \(dit, [^)]*comb\) \|", page)
    assert "`comb-l` | 9 | 4 |" in page


def test_what_was_written_is_read_as_it_was_and_nothing_else() -> None:
    config = CombConfig(latent_channels=1, teeth=4)
    assert CombConfig.from_json(config.model_dump(mode="json")) == config
    for damage in ({"teeth": "4"}, {"teeth": 1}, {"teeth": None}, {"bristles": 3}, {"depth": 7}):
        with pytest.raises(ConfigError):
            CombConfig.from_json(config.model_dump(mode="json") | damage)


def test_the_section_of_a_family_has_the_fields_that_are_settings_and_no_others() -> None:
    section = section_of(DenoiserModel, "dit")
    given = {"latent_channels", "latent_size", "num_classes", "label_dropout", "learn_sigma"}
    assert not given & section.model_fields.keys()
    assert section.model_fields["heads"].description == DiTConfig.model_fields["heads"].description
    assert all(getattr(section.model_validate({}), name) is None for name in DiTConfig.settings())


def test_other_defaults_leave_what_is_declared_and_the_limits_as_they_are() -> None:
    assert (ClassifierTrain().lr, ClassifierTrain().decay, Train().lr, Train().decay) == (
        2e-3,
        "cosine",
        1e-4,
        "constant",
    )
    assert ClassifierTrain.model_fields["lr"].description == Train.model_fields["lr"].description
    with pytest.raises(ValidationError, match="greater than 0"):
        ClassifierTrain(lr=-1.0)
