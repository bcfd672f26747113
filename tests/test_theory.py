"""docs/theory.md points at code, tests, pictures and commands that are there, and its numbers are the code's."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

from ldm.core.diffusion.schedules import schedule
from ldm.stages.configs.plot import ZERO

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "theory.md"
TEXT = PAGE.read_text(encoding="utf-8")
LINKS = re.findall(r"(?<!!)\[([^\]]*)\]\(([^)#]+)\)", TEXT)
PICTURES = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", TEXT)
CODE = [(text.strip("`"), target) for text, target in LINKS if text.startswith("`core.")]
TESTS = [(text.strip("`"), target) for text, target in LINKS if "::" in text]
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
FORMULA = re.compile(r"```math\n.*?```", re.S)


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_in(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Return what a module or class defines, by name."""
    found: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id: node for target in targets if isinstance(target, ast.Name)}
    return found


def defines(path: Path, dotted: str) -> bool:
    """Say whether a file defines a name, or a class with that attribute."""
    body: list[ast.stmt] = tree(path).body
    for name in dotted.split("."):
        node = names_in(body).get(name)
        if node is None:
            return False
        body = node.body if isinstance(node, ast.ClassDef) else []
    return True


def missing_code(dotted: str, target: str) -> str | None:
    """Say what is wrong with a pointer to code."""
    path = (PAGE.parent / target).resolve()
    if not path.is_file():
        return f"{target} does not exist"
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    if not dotted.startswith(module + "."):
        return f"{dotted} is not in {module}"
    return None if defines(path, dotted.removeprefix(module + ".")) else f"{module} does not define {dotted}"


def missing_test(pointer: str, target: str) -> str | None:
    """Say what is wrong with a pointer to a test."""
    file, _, name = pointer.partition("::")
    path = (PAGE.parent / target).resolve()
    if not path.is_file() or path.name != file:
        return f"{target} is not {file}"
    return None if name.startswith("test_") and defines(path, name) else f"{file} has no {name}"


@pytest.mark.parametrize(("dotted", "target"), sorted(set(CODE)))
def test_every_function_named_exists_where_the_link_says(dotted: str, target: str) -> None:
    assert missing_code(dotted, target) is None


@pytest.mark.parametrize(("pointer", "target"), sorted(set(TESTS)))
def test_every_test_named_exists_where_the_link_says(pointer: str, target: str) -> None:
    assert missing_test(pointer, target) is None


def test_the_check_of_pointers_tells_good_from_bad() -> None:
    file = "../core/diffusion/schedules.py"
    assert missing_code("core.diffusion.schedules.Schedule.log_snr", file) is None
    assert missing_code("core.diffusion.schedules.BETAS", file) is None
    assert missing_code("core.diffusion.schedules.Schedule.gone", file)
    assert missing_code("core.diffusion.schedules.gone", file)
    assert missing_code("core.diffusion.times.grid", file)
    assert missing_code("core.diffusion.gone.grid", "../core/diffusion/gone.py")
    assert missing_test("test_theory.py::test_gone", "../tests/test_theory.py")
    assert missing_test("test_other.py::test_the_check_of_pointers_tells_good_from_bad", "../tests/test_theory.py")
    assert (
        missing_test("test_theory.py::test_the_check_of_pointers_tells_good_from_bad", "../tests/test_theory.py")
        is None
    )


def test_nothing_is_named_without_a_link() -> None:
    plain = re.sub(r"\[[^\]]*\]\([^)]*\)", "", TEXT)
    assert not re.findall(r"core\.\w+\.\w+|\w+\.py|::test_\w+", plain)
    assert all((PAGE.parent / target).exists() for _, target in LINKS)
    headings = {
        re.sub(r"[^\w\- ]", "", line.lstrip("# ").lower()).replace(" ", "-")
        for line in TEXT.splitlines()
        if line.startswith("#")
    }
    assert set(re.findall(r"\]\(#([^)]+)\)", TEXT)) <= headings


def test_every_formula_is_followed_by_its_code_and_its_test() -> None:
    parts = FORMULA.split(TEXT)[1:]
    assert len(parts) > 25
    for formula, after in zip(FORMULA.findall(TEXT), parts, strict=True):
        pointer = after.split("\n\n")[1]
        assert pointer.startswith("Code [`core.") and re.search(r"· tests?\s+\[`test_", pointer), formula


def test_inline_formulas_hold_nothing_that_markdown_takes_for_its_own() -> None:
    prose = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    formulas = re.findall(r"\$([^$\n]*)\$", prose)
    assert prose.count("$") == 2 * len(formulas) and len(formulas) > 100
    for formula in formulas:
        assert formula == formula.strip() and not re.search(r"[}*]_|\\[^A-Za-z]|\*|(?<![A-Za-z0-9}])_", formula), (
            formula
        )


def test_every_picture_exists_is_small_and_stands_above_the_command_that_drew_it() -> None:
    drawn = {line.split(" --out ")[1] for line in COMMANDS if line.startswith("ldm plot ")}
    assert {f"docs/{picture}" for picture in PICTURES} == drawn
    on_disk = {path.relative_to(PAGE.parent).as_posix(): path for path in (PAGE.parent / "theory").iterdir()}
    assert set(PICTURES) == set(on_disk) and len(PICTURES) == len(set(PICTURES))
    sizes = [path.stat().st_size for path in on_disk.values()]
    assert max(sizes) < 250_000 and sum(sizes) < 800_000
    for path in on_disk.values():
        with Image.open(path) as image:
            assert image.format == "PNG" and image.mode in ("RGB", "P")


def test_the_table_of_alpha_bars_is_the_code_s() -> None:
    rows = re.findall(
        r"^\| ([a-z+-]+) \| (0[\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \| ([\d.e-]+) \|$", TEXT, re.M
    )
    assert len(rows) == 7
    for name, *numbers in rows:
        table = schedule(name.removesuffix(ZERO), zero_terminal_snr=name.endswith(ZERO)).alpha_bars
        for index, number in zip((0, 250, 500, 750, 999), numbers, strict=True):
            assert float(number) == pytest.approx(float(table[index]), rel=1e-7, abs=1e-15), name
