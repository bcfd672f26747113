"""docs/commands.md and docs/settings.md list what the command line takes, all of it."""

import re
from pathlib import Path

import pytest
import typer

from ldm.cli.keys import settings_of
from ldm.cli.main import app, run
from ldm.cli.reference import pages
from ldm.stages.table import COMMANDS

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def written() -> dict[str, str]:
    return pages()


@pytest.mark.parametrize("name", ["commands.md", "settings.md"])
def test_the_page_in_docs_is_what_the_program_tells(name: str, written: dict[str, str]) -> None:
    same = (DOCS / name).read_text(encoding="utf-8") == written[name]
    assert same, f"docs/{name} is not what this program writes; mend it: ldm config reference docs"


def section(page: str, heading: str) -> str:
    """Return what stands under a heading, up to the next one as high."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", page, re.M | re.S)
    assert found, f"no section {heading}"
    return found[2]


def test_every_flag_in_the_help_of_every_command_is_on_its_section(written: dict[str, str]) -> None:
    root = typer.main.get_command(app)
    for name in root.list_commands(None):  # type: ignore[attr-defined, arg-type]
        command = root.get_command(None, name)  # type: ignore[attr-defined, arg-type]
        context = command.context_class(command, info_name=f"ldm {name}")
        flags = re.findall(r"^  (--[\w-]+)", command.get_help(context), re.M)
        said = section(written["commands.md"], name)
        assert flags and not [flag for flag in flags if flag not in said], name


def test_every_key_of_every_command_is_among_the_settings(written: dict[str, str]) -> None:
    page = written["settings.md"]
    for command, model in [(name, each.settings) for name, each in COMMANDS.items()]:
        said = section(page, command)
        for setting in settings_of(model):
            linked = re.search(rf"\(#section-{setting.section}\)", said) if setting.section else "[which run]" in said
            assert linked or f"| `{setting.key}`" in said, f"{command}: {setting.key}"
            assert f"| `{setting.key}`" in page


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("train.ema", "number, at least 0, less than 1"),
        ("num", "count, at least 1"),
        ("cfg_interval", "2 numbers, with a comma"),
        ("data.background", r"text, matching `^(white\|black\|#[0-9a-fA-F]{6})$`"),
        ("diffusion.weighting", "`uniform`, `snr`, `truncated-snr`, `snr+1`, `min-snr`, `flow`"),
        ("times", "numbers, with commas, each at least 0 and at most 1"),
        ("train.images", "count"),
    ],
)
def test_what_a_setting_takes_is_listed_with_its_limits(key: str, said: str, written: dict[str, str]) -> None:
    assert re.search(rf"^\| `{re.escape(key)}`[^|]*\| {re.escape(said)} \|", written["settings.md"], re.M)


def test_pages_are_written_where_they_differ_and_only_there(
    tmp_path: Path, written: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "commands.md").write_text(written["commands.md"])
    (tmp_path / "settings.md").write_text("old")
    before = (tmp_path / "commands.md").stat().st_mtime_ns
    assert run(["config", "reference", str(tmp_path)]) == 0
    assert (tmp_path / "commands.md").stat().st_mtime_ns == before
    assert (tmp_path / "settings.md").read_text() == written["settings.md"]
    assert "changed  settings.md" in "".join(capsys.readouterr())


def test_a_folder_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["config", "reference", str(tmp_path / "gone")]) == 2
    assert "gone is not a folder" in "".join(capsys.readouterr())
