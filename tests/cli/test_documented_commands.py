"""Every command that the documentation shows is one that the command line takes."""

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from ldm.cli.layers import merged_config
from ldm.cli.main import app
from ldm.cli.options import Given, stage_command
from ldm.stages.table import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), *sorted((ROOT / "recipes").glob("*.yaml"))]


def shown_commands() -> list[tuple[str, str]]:
    """List (page, `ldm …`) of every line of a `sh` block; of recipes, of what stands in backticks in their comments."""
    found = []
    for page in PAGES:
        text = page.read_text()
        if page.suffix == ".yaml":
            lines = re.findall(r"`(ldm [^`]+)`", "\n".join(line for line in text.splitlines() if line.startswith("#")))
        else:
            blocks = re.findall(r"```sh\n(.*?)```", text.replace("\\\n", " "), flags=re.DOTALL)
            lines = [part.strip() for block in blocks for line in block.splitlines() for part in line.split("&&")]
        found += [(page.name, line.split(" #")[0].strip()) for line in lines if line.startswith("ldm ")]
    return found


@pytest.fixture(scope="module")
def recipes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `recipes/`, and the recipes that pages show: blocks of YAML that begin with a file's name."""
    folder = tmp_path_factory.mktemp("reader")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for page in PAGES:
        for name, text in re.findall(r"```yaml\n# (\S+\.yaml)\n(.*?)```", page.read_text(), flags=re.DOTALL):
            (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize(("page", "line"), shown_commands())
def test_a_documented_command_is_understood(
    page: str, line: str, recipes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipes)
    words = shlex.split(line.split(" > ")[0])[1:]
    if " ".join(words[:2]) in COMMANDS:
        words = [" ".join(words[:2]), *words[2:]]
    if words[0] not in COMMANDS:
        typer.main.get_command(app)(args=[*words, "--help"], prog_name="ldm", standalone_mode=False)
        return
    given: list[Given] = []
    built: Any = stage_command(words[0], lambda _, seen: given.append(seen))
    built.main(words[1:], prog_name=words[0], standalone_mode=False)
    merged_config(words[0], given[0].recipe, given[0].overrides, given[0].flags)


def test_the_readme_shows_every_stage() -> None:
    shown = {shlex.split(line)[1] for page, line in shown_commands() if page == "README.md"}
    assert {"train-vqvae", "encode", "train-dit", "sample", "train-classifier", "eval"} <= shown
