"""Recipes: every scalar is the text that was written, and what a recipe has no use for is refused by line."""

from pathlib import Path

import pytest
import yaml

from ldm.cli.recipe import merge, passed_over, read_recipe, stage_layer
from ldm.core.errors import ConfigError


def recipe(folder: Path, text: str) -> str:
    path = folder / "r.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read_recipe(recipe(folder, text))
    assert "r.yaml" in caught.value.message
    return caught.value.message


def test_scalars_stay_the_text_that_yaml_would_have_read_as_something_else(tmp_path: Path) -> None:
    text = "sample: {a: 1e-4, b: no, c: 007, d: 12:30:45, e: 2024-01-01, f: 0x1F, g: 1_000, h: .inf}"
    assert read_recipe(recipe(tmp_path, text)).tree["sample"] == {
        "a": "1e-4",
        "b": "no",
        "c": "007",
        "d": "12:30:45",
        "e": "2024-01-01",
        "f": "0x1F",
        "g": "1_000",
        "h": ".inf",
    }


@pytest.mark.parametrize(("written", "read"), [("null", None), ("~", None), ("", None), ("'null'", "null"), ('""', "")])
def test_only_a_bare_null_is_none(tmp_path: Path, written: str, read: str | None) -> None:
    assert read_recipe(recipe(tmp_path, f"sample:\n  label: {written}\n")).tree["sample"]["label"] == read


def test_a_key_given_twice_is_refused_with_both_lines(tmp_path: Path) -> None:
    message = refused(tmp_path, "sample:\n  cfg: 3\n  steps: 4\n  cfg: 5\n")
    assert "line 4" in message and "sample.cfg is given twice, first in line 2" in message


def test_a_python_tag_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    bait = tmp_path / "ran"
    message = refused(tmp_path, f"sample: !!python/object/apply:os.mkdir ['{bait}']\n")
    assert "recipes use no tags" in message and not bait.exists()


def test_aliases_are_refused_so_that_nothing_can_be_blown_up(tmp_path: Path) -> None:
    assert "recipes use no anchors or aliases" in refused(tmp_path, "sample: &a {cfg: 3}\neval: *a\n")


def test_a_recipe_that_contains_itself_is_refused(tmp_path: Path) -> None:
    assert "recipes use no anchors or aliases" in refused(tmp_path, "&a [*a]\n")


def test_deep_nesting_is_refused_without_exhausting_the_stack(tmp_path: Path) -> None:
    assert "nested too deeply" in refused(tmp_path, "sample: " + "[" * 50_000)


def test_a_large_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    assert "at most" in refused(tmp_path, "# " + "x" * 300_000)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("sample: {cfg: 3", "not YAML: line 1"),
        ("- a\n- b\n", "is a list"),
        ("just words\n", "single value"),
        ("[a]: 3\n", "a key must be a single word"),
        ("? {a: b}\n: c\n", "a key must be a single word"),
        ("trian-dit: {}\n", "line 1: unknown key trian-dit; did you mean train-dit?"),
        ("without: [trian-dit]\n", "line 1: without holds 'trian-dit', which is not a stage"),
        ("without: train-dit\n", "line 1: without holds 'train-dit'"),
        ("without: {train-dit: 1}\n", "line 1: without holds"),
        ("name: x\ntrain_dit: {}\n", "line 2: unknown key train_dit; did you mean train-dit?"),
        ("data: mnist\n", "data is a section"),
        ("a: b\n---\nc: d\n", "not YAML"),
        ("a: b\n\x00", "not YAML"),
    ],
)
def test_what_is_no_recipe_is_refused_by_name(tmp_path: Path, text: str, says: str) -> None:
    assert says in refused(tmp_path, text)


def test_bytes_that_are_not_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_recipe(str(path))


def test_an_empty_recipe_leaves_every_stage_at_its_defaults(tmp_path: Path) -> None:
    assert stage_layer(read_recipe(recipe(tmp_path, "# nothing yet\n")), "sample") == {}


def test_shared_sections_reach_the_stages_that_have_them_and_no_other(tmp_path: Path) -> None:
    text = (
        "name: n\nseed: 5\ndata: {source: mnist, flip: no}\nmachine: {device: cpu}\ntrain-vqvae: {data: {flip: yes}}\n"
    )
    read = read_recipe(recipe(tmp_path, text))
    shared = {"name": "n", "seed": "5", "machine": {"device": "cpu"}}
    assert stage_layer(read, "sample") == shared
    assert stage_layer(read, "encode") == {**shared, "data": {"source": "mnist", "flip": "no"}}
    assert stage_layer(read, "train-vqvae") == {**shared, "data": {"source": "mnist", "flip": "yes"}}


def test_a_setting_is_traced_to_the_line_of_the_section_that_won(tmp_path: Path) -> None:
    read = read_recipe(recipe(tmp_path, "data:\n  flip: no\n  source: a\nencode:\n  data:\n    flip: yes\n"))
    assert read.where("encode", "data.flip").endswith("r.yaml line 6")
    assert read.where("encode", "data.source").endswith("r.yaml line 3")
    assert read.where("train-vqvae", "data.flip").endswith("r.yaml line 2")


def test_a_bare_name_is_looked_for_in_the_folder_recipes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "flowers.yaml").write_text("name: f\n")
    (tmp_path / "flowers").mkdir()  # a folder of images of the same name is not the recipe
    monkeypatch.chdir(tmp_path)
    assert read_recipe("flowers").tree == {"name": "f"}
    with pytest.raises(ConfigError) as caught:
        read_recipe("flowesr")
    assert "did you mean flowers?" in caught.value.message and "flowers" in str(caught.value.remedy)


def test_a_folder_is_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is a folder"):
        read_recipe(str(tmp_path))


def test_what_stages_write_with_pyyaml_reads_back_as_the_same_texts(tmp_path: Path) -> None:
    settings = {
        "classes": "no",
        "label": "1e5",
        "cfg": 2.5,
        "progressive": True,
        "steps": None,
        "cfg_interval": [0.1, 1.0],
    }
    read = read_recipe(recipe(tmp_path, yaml.safe_dump({"sample": settings})))
    assert read.tree["sample"] == {
        "classes": "no",
        "label": "1e5",
        "cfg": "2.5",
        "progressive": "true",
        "steps": None,
        "cfg_interval": ["0.1", "1.0"],
    }


def test_merging_joins_sections_and_replaces_everything_else() -> None:
    under = {"a": {"x": 1, "y": 2}, "b": [1, 2], "c": {"z": 3}}
    assert merge(under, {"a": {"y": 5}, "b": [9], "c": None}) == {"a": {"x": 1, "y": 5}, "b": [9], "c": None}
    assert under["a"] == {"x": 1, "y": 2}


def test_a_section_of_the_other_command_of_a_stage_is_named(tmp_path: Path) -> None:
    read = read_recipe(recipe(tmp_path, "train-autoencoder: {seed: 1}\ntrain-dit: {seed: 1}\nsample: {seed: 1}\n"))
    assert passed_over(read, "train-vqvae") == "train-autoencoder"
    assert passed_over(read, "train-denoiser") == "train-dit"
    for command in ("train-autoencoder", "train-dit", "distill", "encode", "report"):
        assert passed_over(read, command) is None, command
    tokens = read_recipe(recipe(tmp_path, "train-var: {seed: 1}\n"))
    assert passed_over(tokens, "train-dit") == "train-var" and passed_over(tokens, "train-classifier") is None
    both = read_recipe(recipe(tmp_path, "train-autoencoder: {seed: 1}\ntrain-vqvae: {seed: 1}\n"))
    assert passed_over(both, "train-vqvae") is None
