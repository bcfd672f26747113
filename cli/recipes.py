"""`ldm recipes`: the recipes at hand, what each was measured to give, and a copy of one to start from."""

import json as json_format
import re
import shlex
import shutil
import textwrap
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from ..core.errors import ConfigError
from ..core.files import read_plain
from ..core.progress import Outcome
from ..stages.table import pipeline
from .completion import complete_recipes
from .console import open_console
from .recipe import find_recipe, read_recipe, recipe_names
from .text import echo

FACTS = ("hardware", "time", "result")  # what a recipe's header says of the run that was measured
NEEDS = "needs"  # and the files it asks for, if any
_Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A name in recipes/, or a path.", autocompletion=complete_recipes)
]


def header(text: str) -> dict[str, str]:
    """Read the comment a recipe begins with: what it is under `about`, then NEEDS and each of FACTS that it states."""
    read: dict[str, list[str]] = {"about": []}
    key = "about"
    for line in takewhile(lambda line: line.startswith("#"), text.splitlines()):
        stated = re.match(rf"#\s*({'|'.join((NEEDS, *FACTS))}):\s*(.*)", line)
        key = stated[1] if stated else key
        read.setdefault(key, []).append(stated[2] if stated else line.lstrip("#").strip())
    return {key: " ".join(filter(None, lines)) for key, lines in read.items()}


def list_recipes(
    json: Annotated[bool, typer.Option("--json", help="Show each recipe as JSON, one a line.")] = False,
) -> None:
    names = recipe_names()
    if not names:
        raise ConfigError("there are no recipes here", "make a folder recipes/ with .yaml files, or give -c a path")
    width = min(shutil.get_terminal_size((100, 24)).columns, 110)
    for name in names:
        path = find_recipe(name)
        facts = header(read_plain(path).decode(errors="replace"))
        if json:
            typer.echo(json_format.dumps({"event": "recipe", "name": name, "path": str(path), **facts}))
        else:
            echo("\n".join([f"{name:<16}  {path}", *_rows(facts, width), ""]))


def _rows(facts: dict[str, str], width: int) -> list[str]:
    lines = textwrap.wrap(facts["about"], width, initial_indent="  ", subsequent_indent="  ")
    for fact in (NEEDS, *FACTS) if NEEDS in facts else FACTS:
        stated = facts.get(fact, "not stated")
        lines += textwrap.wrap(stated, width, initial_indent=f"  {fact:<8}  ", subsequent_indent=" " * 12)
    return lines


def show_recipe(recipe: _Recipe) -> None:
    echo(_content(find_recipe(recipe)).decode("utf-8", "replace"), newline=False)


def copy_recipe(
    recipe: _Recipe,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The new file; one that exists is left alone.")],
) -> None:
    source, path = find_recipe(recipe), Path(file)
    content, first = _content(source), pipeline(read_recipe(str(source)).tree)[0]
    try:
        with path.open("xb") as copy:
            copy.write(content)
    except FileExistsError:
        raise ConfigError(f"{path} exists, and is not overwritten", "give another name, or remove it first") from None
    except FileNotFoundError:
        raise ConfigError(f"{path.parent} does not exist", "make that folder, or give another path") from None
    with open_console() as console:
        following = shlex.join(["ldm", first, "-c", str(path)])
        written = Outcome(path, summary={"copied": str(source)}, next_commands=[following])
        console.outcome("recipes copy", written)


def _content(path: Path) -> bytes:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder, not a recipe", "give the YAML file itself")
    return read_plain(path)
