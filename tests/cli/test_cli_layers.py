"""Layers of settings: what wins, what is said of each bad value, what is meant by an unknown key."""

from pathlib import Path
from typing import Any

import pytest

from ldm.cli.layers import merged_config
from ldm.core.errors import ConfigError

RECIPE = """
seed: 1
data: {source: photos, flip: no, image_size: 32}
train-vqvae:
  train: {lr: 1e-4, batch_size: 8, images: 2k}
  model: {channel_multipliers: [1, 2, 4], cosine: yes}
"""


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    path = tmp_path / "r.yaml"
    path.write_text(RECIPE)
    return str(path)


def refusal(command: str, *overrides: str, recipe: str | None = None, flags: dict[str, Any] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        merged_config(command, recipe, overrides, flags)
    assert caught.value.exit_code == 2 and caught.value.remedy
    return caught.value.message


def test_flags_win_over_overrides_over_the_recipe_over_defaults(recipe: str) -> None:
    def train(overrides: list[str], flags: dict[str, str | bool]) -> tuple[Any, ...]:
        config: Any = merged_config("train-vqvae", recipe, overrides, flags).config
        return config.train.lr, config.train.batch_size, config.train.images, config.train.clip

    assert train([], {}) == (1e-4, 8, 2000, 1.0)
    assert train(["train.lr=2e-4", "train.batch_size=16"], {}) == (2e-4, 16, 2000, 1.0)
    assert train(["train.lr=2e-4", "train.batch_size=16"], {"train.lr": "3e-4"}) == (3e-4, 16, 2000, 1.0)


def test_each_value_knows_where_it_was_set(recipe: str) -> None:
    origins = merged_config(
        "train-vqvae", recipe, ["train.lr=1"], {"train.batch_size": "4", "data.flip": False}
    ).origins
    assert origins["train.images"] == f"{recipe} line 5"
    assert origins["data.source"] == f"{recipe} line 3"
    assert origins["train.lr"] == "argument train.lr=1"
    assert origins["train.batch_size"] == "flag --batch-size"
    assert origins["data.flip"] == "flag --no-flip"
    assert "train.clip" not in origins


def test_what_yaml_misreads_is_read_by_the_setting(recipe: str) -> None:
    config: Any = merged_config("train-vqvae", recipe).config
    assert config.train.lr == 1e-4 and isinstance(config.train.lr, float)
    assert config.data.flip is False and config.model.cosine is True


def test_no_is_a_name_where_a_name_is_wanted(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: no\nsample: {classes: 1e5}\n")
    config: Any = merged_config("sample", str(path)).config
    assert (config.name, config.classes) == ("no", "1e5")


@pytest.mark.parametrize("written", ["1,2,4", "[1, 2, 4]", " 1 , 2,4"])
def test_lists_are_read_from_an_override(written: str) -> None:
    config: Any = merged_config("train-vqvae", None, [f"model.channel_multipliers={written}"]).config
    assert config.model.channel_multipliers == (1, 2, 4)


def test_lists_are_read_from_a_flag_and_from_a_recipe(recipe: str) -> None:
    sample: Any = merged_config("sample", None, [], {"cfg_interval": "0.2,0.8"}).config
    assert sample.cfg_interval == (0.2, 0.8)
    vqvae: Any = merged_config("train-vqvae", recipe).config
    assert vqvae.model.channel_multipliers == (1, 2, 4)


def test_null_takes_a_setting_back_to_none(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("sample: {steps: 7}\n")
    with_null: Any = merged_config("sample", str(path), ["steps=null"]).config
    assert with_null.steps is None


def test_a_section_with_nothing_in_it_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("data:\nencode:\n  machine:\n")
    merged = merged_config("encode", str(path))
    assert merged.config.model_fields_set == set()


def test_only_what_was_given_counts_as_set(recipe: str) -> None:
    data: Any = merged_config("encode", recipe).config
    assert data.data.model_fields_set == {"source", "flip", "image_size"}


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("train.lr=fast", "train.lr (--lr) is fast: must be a number"),
        ("train.lr=0", "train.lr (--lr) is 0: must be greater than 0"),
        ("train.lr=", "train.lr (--lr) is '': must be a number"),
        ("train.lr=nan", "train.lr (--lr) is nan: must be finite"),
        ("train.lr=inf", "train.lr (--lr) is inf: must be finite"),
        ("train.ema=1", "train.ema is 1: must be at least 0 and less than 1"),
        ("train.batch_size=1.5", "train.batch_size (--batch-size) is 1.5: must be a whole number"),
        ("train.batch_size=0", "must be at least 1"),
        ("train.images=lots", "train.images (--images) is lots: must be a count such as 5000, 500k or 2M"),
        ("train.images=-5", "must be at least 0"),
        ("data.image_size=9999", "data.image_size (--image-size) is 9999: must be at least 11 and at most 4096"),
        ("data.flip=maybe", "data.flip (--flip) is maybe: must be yes or no"),
        ("data.background=red", "data.background is red: does not fit; Behind transparency: white, black or #rrggbb."),
        ("machine.precision=fp61", "must be one of auto, fp32, bf16, fp16; did you mean fp16?"),
        ("train.decay=xyz", "train.decay is xyz: must be one of constant, cosine, linear, exponential"),
        ("model.channel_multipliers=1,x", "model.channel_multipliers is x: must be whole numbers, as in 1,2,4"),
        ("name=null", "name (--name) is null: must be a text"),
    ],
)
def test_each_bad_value_is_reported_with_its_key_flag_and_what_is_allowed(override: str, says: str) -> None:
    assert says in refusal("train-vqvae", override)


@pytest.mark.parametrize(
    ("command", "override", "says"),
    [
        ("train-dit", "model.preset=dit-ss", "model.preset (--preset) is dit-ss: there is none of that name; did you"),
        ("train-dit", "model.preset=DiT-S2", "did you mean dit-s/2?"),
        ("train-dit", "model.preset=huge", "must be one of dit-xs, dit-ti/1, "),
        ("train-vqvae", "model.preset=vqvae-xxs", "there is none of that name; did you mean vqvae-xs?"),
        ("train-vqvae", "model.preset=dit-xs", "must be one of vqvae-xs, vqvae-s, vqvae-m, vqvae-f8, vqvae-f16"),
        ("estimate", "preset=dit-sl/2", "preset (--preset) is dit-sl/2: there is none of that name; did you mean dit-"),
    ],
)
def test_a_network_that_there_is_not_is_reported_before_anything_is_looked_for(
    command: str, override: str, says: str
) -> None:
    assert says in refusal(command, override)


@pytest.mark.parametrize("name", ["DiT-S/2", "dit-s/2", "DIT-xs"])
def test_a_network_is_named_in_any_case_and_recorded_in_lower_case(name: str) -> None:
    assert merged_config("train-dit", None, (f"model.preset={name}",), {}).config.model.preset == name.lower()


def test_every_bad_value_is_reported_at_once() -> None:
    message = refusal("train-dit", "train.lr=x", "seed=-1", flags={"diffusion.schedule": "cosin"})
    lines = message.splitlines()
    assert lines[0] == "3 settings cannot be used:" and len(lines) == 4
    assert "did you mean cosine?" in message


def test_a_bad_value_in_a_recipe_is_reported_with_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: x\nsample:\n  cfg: three\n")
    assert refusal("sample", recipe=str(path)) == f"{path} line 3: cfg (--cfg) is three: must be a number"


def test_an_unknown_key_in_a_recipe_is_reported_with_the_nearest_one(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train-dit:\n  train:\n    batchsize: 3\n  lr: 3\n")
    message = refusal("train-dit", recipe=str(path))
    assert f"{path} line 3: unknown setting train.batchsize; did you mean train.batch_size?" in message
    assert f"{path} line 4: unknown setting lr; did you mean train.lr?" in message


def test_a_section_that_is_a_single_value_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("train-dit:\n  train: 5\n")
    assert refusal("train-dit", recipe=str(path)) == f"{path} line 2: train is a section; it holds keys, not 5"


@pytest.mark.parametrize(
    ("typed", "says"),
    [
        ("lr=3", "unknown setting lr; did you mean train.lr?"),
        ("train.learnrate=3", "unknown setting train.learnrate"),
        ("difusion.prediction=v", "did you mean diffusion.prediction?"),
        ("zzz=3", "unknown setting zzz"),
        ("train=3", "train is a section, not a setting"),
        ("lr", "argument 'lr' is not of the form section.key=value; did you mean --lr?"),
        ("3", "argument '3' is not of the form section.key=value"),
        ("=3", "unknown setting "),
    ],
)
def test_an_argument_that_names_no_setting_is_answered_with_what_was_meant(typed: str, says: str) -> None:
    assert says in refusal("train-dit", typed)


def test_a_folder_without_its_flag_is_taken_for_what_it_is(tmp_path: Path) -> None:
    assert f"did you mean --data {tmp_path}?" in refusal("train-vqvae", str(tmp_path))
    assert "did you mean" not in refusal("sample", str(tmp_path))


def test_settings_that_do_not_go_together_are_reported_why() -> None:
    assert "take 'v' or 'x0'" in refusal("train-dit", "diffusion.prediction=eps", "diffusion.zero_terminal_snr=yes")
    assert "the smaller first" in refusal("sample", "cfg_interval=0.8,0.2")


def test_a_long_value_is_shortened() -> None:
    assert len(refusal("train-dit", f"train.lr={'9' * 5000}x")) < 200
