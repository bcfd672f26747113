"""`ldm recipes`: what is at hand, what its header says, and copies that overwrite nothing."""

import json
import re
from pathlib import Path

import pytest

from ldm.cli.main import run
from ldm.cli.recipe import recipe_names
from ldm.cli.recipes import FACTS, header
from ldm.core.autoencoders import lpips
from ldm.core.features import mobilenet

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """# Flowers by class,
# in folders.
# hardware: one core
# time:     an hour, and
#           another
# result:   nice: see it

name: f
# result: not of the header
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a recipe of its own."""
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "flowers.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_header_is_read_with_its_continued_lines() -> None:
    assert header(RECIPE) == {
        "about": "Flowers by class, in folders.",
        "hardware": "one core",
        "time": "an hour, and another",
        "result": "nice: see it",
    }
    assert header("name: x\n# time: late\n") == {"about": ""}


def test_the_list_holds_recipes_of_this_folder_and_those_that_come_along(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", "ls", "--json"]) == 0
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [recipe["name"] for recipe in said] == recipe_names()
    flowers = next(recipe for recipe in said if recipe["name"] == "flowers")
    assert flowers["path"] == "recipes/flowers.yaml" and flowers["time"] == "an hour, and another"
    assert {"flowers", "mnist"} <= {recipe["name"] for recipe in said}


def test_every_recipe_that_comes_along_states_hardware_time_and_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "ls", "--json"]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert all(json.loads(line).get(fact) for fact in ("about", *FACTS)), line


def test_the_list_for_people_has_every_fact_and_says_what_is_not_stated(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "recipes" / "flowers.yaml").write_text("# Flowers.\nname: f\n")
    assert run(["recipes", "ls"]) == 0
    shown = capsys.readouterr().out
    lines = shown[shown.index("flowers ") :].splitlines()
    assert lines[0].split() == ["flowers", "recipes/flowers.yaml"] and lines[1].strip() == "Flowers."
    assert [line.split() for line in lines[2:5]] == [[fact, "not", "stated"] for fact in FACTS]


def test_the_list_says_which_files_a_recipe_needs(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "recipes" / "flowers.yaml").write_text("# Flowers.\n# needs: data/flowers,\n#   and time\n# time: 1 h\n")
    assert run(["recipes", "ls"]) == 0
    shown = capsys.readouterr().out
    lines = shown[shown.index("flowers ") :].splitlines()
    assert [line.split() for line in lines[2:4]] == [
        ["needs", "data/flowers,", "and", "time"],
        ["hardware", "not", "stated"],
    ]


def test_what_a_recipe_that_comes_along_reads_stands_in_its_header() -> None:
    for path in sorted((ROOT / "recipes").glob("*.yaml")):
        text = path.read_text()
        settings = re.sub("^#.*$", "", text, flags=re.MULTILINE)
        needed = header(text).get("needs", "")
        assert all(folder in needed for folder in re.findall(r"(?:data|weights)/[\w-]+", settings)), path
        if "weights/lpips" in settings:
            assert all(name in needed for name in (lpips.TRUNK, lpips.HEADS)), path
        if "weights/mobilenet" in settings:
            assert mobilenet.URL in needed, path


def test_show_prints_the_file_as_it_stands(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["recipes", "show", "flowers"]) == 0
    assert capsys.readouterr().out == RECIPE


def test_a_copy_is_the_same_recipe_and_is_never_written_over_anything(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", "copy", "flowers", "mine.yaml"]) == 0
    assert (here / "mine.yaml").read_text() == RECIPE
    assert "ldm train-vqvae -c mine.yaml" in capsys.readouterr().out
    (here / "other.yaml").write_text("train-autoencoder: {seed: 1}\n")
    assert run(["recipes", "copy", "other.yaml", "its.yaml"]) == 0
    assert "ldm train-autoencoder -c its.yaml" in capsys.readouterr().out
    (here / "mine.yaml").write_text("name: edited\n")
    assert run(["recipes", "copy", "flowers", "mine.yaml"]) == 2
    assert "mine.yaml exists, and is not overwritten" in capsys.readouterr().err
    assert (here / "mine.yaml").read_text() == "name: edited\n"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["copy", "flowers", "nowhere/mine.yaml"], "nowhere does not exist"),
        (["copy", "flowers", "recipes"], "recipes exists"),
        (["copy", "flowers"], "FILE"),
        (["copy", "flowesr", "mine.yaml"], "did you mean flowers?"),
        (["show", "recipes"], "is a folder"),
    ],
)
def test_what_cannot_be_copied_or_shown_is_reported(
    here: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["recipes", *arguments]) == 2
    assert says in capsys.readouterr().err
    assert sorted(path.name for path in here.iterdir()) == ["recipes"]
