"""Counts are read as people write them, and the identity of a run holds what makes it another run."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from ldm.cli.keys import settings_of
from ldm.core.settings.fields import Count, Section, Stage, identity, incidental, option, places, section
from ldm.core.training.settings import Train
from ldm.stages import configs

STAGES = [kind for kind in vars(configs).values() if isinstance(kind, type) and issubclass(kind, Stage)]


class Counted(Section):
    count: Count = option(1, "How many.")


@pytest.mark.parametrize(
    ("written", "count"),
    [
        (7, 7),
        ("7", 7),
        ("60_000", 60_000),
        ("500k", 500_000),
        ("2.5k", 2_500),
        ("1M", 1_000_000),
        (" 2 m ", 2_000_000),
        ("1.001M", 1_001_000),  # 1.001 · 10⁶ is no whole number in floating point.
        ("1.005k", 1_005),
        ("1G", 1_000_000_000),
        ("1e6", 1_000_000),
        ("2.5E3", 2_500),
        ("1e3k", 1_000_000),
        ("9007199254740993", 9_007_199_254_740_993),
        (1e6, 1_000_000),
        ("0", 0),
    ],
)
def test_counts_are_read_as_people_write_them(written: object, count: int) -> None:
    assert Counted.model_validate({"count": written}).count == count


@pytest.mark.parametrize(
    "written", ["1.5", "0.0005k", "-1", -1, "1T", "k", "1,000", "1e999999999", "nan", 1.5, None, "", "١k", "1 000"]
)
def test_what_is_no_count_is_refused(written: object) -> None:
    with pytest.raises(ValidationError):
        Counted.model_validate({"count": written})


def test_yaml_recipes_read_counts_and_numbers_as_meant() -> None:
    """YAML 1.1 takes 1e6 and 1e-4 for text; the settings decide."""
    read = yaml.safe_load("{images: 1e6, lr: 1e-4, warmup: 10k, batch_size: 32, keep: 3}")
    assert isinstance(read["images"], str) and isinstance(read["lr"], str)
    train = Train.model_validate(read)
    assert (train.images, train.lr, train.warmup, train.batch_size) == (1_000_000, 1e-4, 10_000, 32)


@pytest.mark.parametrize(
    "wrong",
    [
        {"batchsize": 3},
        {"batch_size": 0},
        {"lr": 0},
        {"lr": float("inf")},
        {"lr": "fast"},
        {"beta1": 1},
        {"ema": float("nan")},
        {"keep": 1},
        {"decay": "step"},
        {"batch_size": 64, "accumulate": 3},
        {"batch_size": 2, "accumulate": 4},
    ],
)
def test_unknown_keys_and_values_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Train.model_validate(wrong)


def test_settings_cannot_be_changed_once_made() -> None:
    with pytest.raises(ValidationError):
        Train().lr = 1.0  # type: ignore[misc]


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_every_setting_says_what_it_is_for_and_whether_it_makes_another_run(stage: type[Section]) -> None:
    """`identity` leaves out what `option` did not declare, so all must be declared."""

    def check(kind: type[Section], value: Section) -> None:
        for name, field in kind.model_fields.items():
            inner = getattr(value, name)
            if isinstance(inner, Section):
                check(type(inner), inner)
            else:
                assert field.description and field.description.endswith("."), f"{kind.__name__}.{name}"
                assert isinstance(field.json_schema_extra, dict), f"{kind.__name__}.{name}"
                assert {"flag", "identity"} <= field.json_schema_extra.keys(), f"{kind.__name__}.{name}"

    check(stage, stage())


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_settings_survive_the_way_through_a_recipe(stage: type[Stage]) -> None:
    settings = stage()
    assert stage.model_validate(yaml.safe_load(yaml.safe_dump(settings.model_dump(mode="json")))) == settings


def test_the_identity_holds_the_settings_that_make_another_run_and_no_others() -> None:
    class Inner(Section):
        width: int = option(4, "Width.")
        threads: int = option(1, "Threads.", identity=False)

    class Outer(Stage):
        place: Path = option(Path("a"), "Place.")
        inner: Inner = section(Inner)

    assert identity(Outer()) == {"seed": 0, "place": "a", "inner": {"width": 4}}
    moved = Outer(name="b", runs_dir=Path("/elsewhere"), replace=True, inner=Inner(threads=8))
    assert identity(moved) == identity(Outer())
    assert identity(Outer(seed=1)) != identity(Outer())
    assert identity(Outer(inner=Inner(width=5))) != identity(Outer())
    assert incidental(Outer()) == {"name", "runs_dir", "replace", "inner.threads"}


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_where_and_how_a_stage_runs_is_no_part_of_what_it_makes(stage: type[Stage]) -> None:
    kept = identity(stage())
    assert not {"name", "runs_dir", "replace"} & kept.keys()
    assert "seed" in kept
    for part, names in {
        "machine": {"device", "threads", "compile", "deterministic"},
        "data": {"workers", "cache_gb"},
    }.items():
        assert not names & kept.get(part, {}).keys()
    if "train" in kept:
        assert {"images", "batch_size", "lr"} <= kept["train"].keys()
        assert not {"keep", "log_every", "checkpoint_every", "validate_every"} & kept["train"].keys()


def test_the_root_of_a_run_is_its_name_in_the_folder_of_runs() -> None:
    assert Stage().root == Path("runs/default")
    assert Stage(name="fish", runs_dir=Path("/data/runs")).root == Path("/data/runs/fish")


def test_a_value_is_recorded_in_one_spelling_and_a_place_is_no_identity() -> None:
    plain, spelled = (
        configs.TrainVQVAE.model_validate(
            {"data": {"source": source, "background": colour}, "model": {"preset": preset}}
        )
        for source, colour, preset in (("T", "white", "vqvae-xs"), ("./T/", "#FFFFFF", "VQVAE-XS"))
    )
    assert identity(plain)["model"] == identity(spelled)["model"]
    assert identity(plain)["data"] | {"source": ""} == identity(spelled)["data"] | {"source": ""}
    assert {"data.source", "data.validation", "data.exclude", "autoencoder"} <= places(plain)


@pytest.mark.parametrize("stage", STAGES)
def test_every_path_of_a_stage_is_an_input_or_listed_here(stage: type[Stage]) -> None:
    """A path that is compared as text refuses the same file by another name."""
    paths = {setting.key for setting in settings_of(stage) if setting.kind == "PATH" and setting.identity}
    assert paths - places(stage()) <= {"loss.lpips", "lpips"}
