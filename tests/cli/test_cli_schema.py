"""The schema of recipes takes what `-c` takes, and refuses what it refuses, whatever an editor makes of a scalar."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from ldm.cli.keys import sections_of, settings_of
from ldm.cli.layers import merged_config
from ldm.cli.main import run
from ldm.cli.recipe import SHARED, WITHOUT
from ldm.cli.schema import recipe_schema
from ldm.core.errors import ConfigError
from ldm.stages.table import STAGES

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
SCHEMA = recipe_schema(list(STAGES))
VALIDATOR = jsonschema.Draft7Validator(SCHEMA)


def strict_scalars(text: str) -> Any:
    """Read YAML as 1.2's core schema does, which most editors follow: `no` is a text and 1e-4 a number."""
    kept = {"tag:yaml.org,2002:null", "tag:yaml.org,2002:merge"}
    loader: Any = type("Loader", (yaml.SafeLoader,), {})
    loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if tag in kept]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    read = yaml.load(text, loader)

    def core(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: core(item) for key, item in value.items()}
        if isinstance(value, list):
            return [core(item) for item in value]
        try:
            return json.loads(value) if isinstance(value, str) and value not in ("NaN", "Infinity") else value
        except ValueError:
            return value

    return core(read)


def accepted_by_the_reader(folder: Path, text: str) -> bool:
    path = folder / "r.yaml"
    path.write_text(text)
    try:
        for stage in STAGES:
            merged_config(stage, str(path))
    except ConfigError:
        return False
    return True


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
@pytest.mark.parametrize("read", [yaml.safe_load, strict_scalars])
def test_every_recipe_that_comes_along_is_valid(path: Path, read: Any) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(read(path.read_text()))] == []


def test_every_setting_of_every_stage_is_there_with_its_help() -> None:
    for stage, record in STAGES.items():
        model = record.settings
        for setting in settings_of(model):
            *sections, name = setting.key.split(".")
            holder = SCHEMA["properties"][stage]
            for section in sections:
                holder = holder["properties"][section]
            assert holder["properties"][name]["description"] == setting.help
    assert set(SCHEMA["properties"]) == {*SHARED, WITHOUT, *STAGES}


@pytest.mark.parametrize("key", SHARED)
def test_a_shared_key_is_the_same_in_every_stage_that_has_it(key: str) -> None:
    kinds = {
        sections_of(model).get(key) or model.model_fields[key].annotation
        for model in [stage.settings for stage in STAGES.values()]
        if key in model.model_fields
    }
    assert len(kinds) == 1


ACCEPTED = """
train: {images: 500k}          | train: {images: 2.5M}       | train: {images: 1e6}      | train: {images: "60_000"}
train: {images: 5000}          | train: {images: 0}          | train: {lr: 1e-4}         | train: {lr: "1e-4"}
train: {lr: .5}                | train: {lr: 1}              | train: {lr: " 1.5 "}      | train: {batch_size: "+8"}
train: {batch_size: 8.0}       | train: {batch_size: 1_000}  | train: {tensorboard: no}  | train: {tensorboard: "off"}
train: {tensorboard: True}     | train: {tensorboard: 1}     | train: {tensorboard: YES} | train: {decay: cosine}
model: {channels: null}        | model: {channels: ~}        | model: {channels:}        | model: {cosine: null}
model:                         | data: {background: "#fff000"} | data: {background: white} | data: {source: no}
data: {source: 2024}           | data: {source: "a b"}       | autoencoder: null         | seed: 007
model: {channel_multipliers: [1, 2]} | model: {channel_multipliers: "1,2"} | model: {channel_multipliers: 2}
model: {channel_multipliers: [1, "2"]} | model: {channel_multipliers: "[1, 2]"} | model: {channel_multipliers: null}
train: {lr: "1_0.5"}           | loss: {lpips: weights/lpips} | pictures: 64             | name: 5
name: yes
"""
REFUSED = """
train: {images: lots}          | train: {images: 1.5}        | train: {images: -5}       | train: {images: [1]}
train: {lr: fast}              | train: {lr: 0}              | train: {lr: null}         | train: {lr: true}
train: {batch_size: 0}         | train: {batch_size: 1.5}    | train: {tensorboard: maybe} | train: {tensorboard: 2}
train: {decay: fast}           | train: {decay: null}        | data: {background: red}   | data: {image_size: 9999}
model: {channel_multipliers: [1, x]} | model: {channel_multipliers: "1,x"} | train: 5    | train: [1]
nonsense: 1                    | train: {nonsense: 1}        | pictures: 65              | name: null
seed: -1                       | data: {val_fraction: 1}     | train: {ema: 1}           | data: {source: [a]}
"""


def written(table: str) -> list[str]:
    return [cell.strip() for line in table.strip().splitlines() for cell in line.split("|")]


@pytest.mark.parametrize("read", [yaml.safe_load, strict_scalars])
@pytest.mark.parametrize("line", written(ACCEPTED))
def test_what_a_recipe_may_say_is_valid(line: str, read: Any, tmp_path: Path) -> None:
    text = f"train-vqvae:\n  {line}\n"
    assert accepted_by_the_reader(tmp_path, text)
    assert [error.message for error in VALIDATOR.iter_errors(read(text))] == []


@pytest.mark.parametrize("read", [yaml.safe_load, strict_scalars])
@pytest.mark.parametrize("line", written(REFUSED))
def test_what_a_recipe_may_not_say_is_not_valid(line: str, read: Any, tmp_path: Path) -> None:
    text = f"train-vqvae:\n  {line}\n"
    assert not accepted_by_the_reader(tmp_path, text)
    assert not VALIDATOR.is_valid(read(text))


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        ("sample: {cfg_interval: [0.2, 0.8]}", True),
        ("sample: {cfg_interval: '0.2,0.8'}", True),
        ("sample: {cfg_interval: [0.2]}", False),
        ("sample: {cfg_interval: 0.2}", False),
        ("sample: {classes: 3}", True),
        ("sample: {classes: 0-4, steps: null}", True),
        ("data: {flip: no}\nseed: 3", True),
        ("data:\nencode:\n", True),
        ("data: mnist", False),
        ("cfg: 3", False),
        ("", True),
    ],
)
def test_sections_and_pairs_are_taken_as_the_reader_takes_them(text: str, valid: bool, tmp_path: Path) -> None:
    assert accepted_by_the_reader(tmp_path, text) == valid
    assert VALIDATOR.is_valid(yaml.safe_load(text)) == VALIDATOR.is_valid(strict_scalars(text)) == valid


@pytest.mark.parametrize("command", STAGES)
def test_the_schema_of_one_stage_is_that_part_of_the_whole(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "schema", command]) == 0
    part = json.loads(capsys.readouterr().out)
    assert set(part["properties"]) == {*SHARED, WITHOUT, command}
    assert part["properties"][command] == SCHEMA["properties"][command]


def test_what_config_show_prints_is_valid(capsys: pytest.CaptureFixture[str]) -> None:
    for command in STAGES:
        assert run(["config", "show", command, "-c", "mnist", "name=x"]) == 0
        assert VALIDATOR.is_valid(yaml.safe_load(capsys.readouterr().out))


def test_the_recipe_that_a_stage_writes_into_its_folder_is_valid() -> None:
    for command, stage in STAGES.items():
        model = stage.settings
        settings = model().model_dump(mode="json", exclude={"replace"})
        assert VALIDATOR.is_valid(yaml.safe_load(yaml.safe_dump({command: settings})))


def test_a_settings_default_is_valid_where_it_stands() -> None:
    def check(schema: dict[str, Any]) -> int:
        found = sum(check(inner) for inner in schema.get("properties", {}).values())
        if "default" in schema:
            assert jsonschema.Draft7Validator(schema).is_valid(schema["default"]), schema
            found += 1
        return found

    assert check(SCHEMA) > 100
