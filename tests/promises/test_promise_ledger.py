"""The ledger is whole: every promise has a quick form, and trials as many as were promised."""

import importlib
import inspect
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support.ledger import PROMISES, Row, _write, write_page

TESTS = Path(__file__).resolve().parents[1]
PAGE = TESTS.parent / "docs" / "reliability.md"
# How many trials the full form of a row must have in all, and how many one of its tests must have in each of its cases.
IN_ALL = {"R1": 100, "R2": 60, "R3": 100, "R4": 900, "R5": 20, "R6": 20, "R7": 30, "R8": 30, "R9": 20, "R10": 10}
IN_ALL |= {"R11": 40, "R12": 10, "R16": 12, "R17": 12, "R18": 40_000, "R23": 20, "R24": 100, "R25": 20}
IN_ALL |= {"R26": 150, "R27": 300, "R28": 35, "R29": 400, "R30": 250, "R31": 400}
IN_EACH = {"R1": 40, "R2": 30, "R3": 100, "R4": 300, "R5": 20, "R9": 10, "R11": 40, "R18": 10_000, "R24": 50}
IN_EACH |= {"R26": 100, "R27": 100, "R29": 100}


@dataclass(frozen=True)
class Shown:
    """A test that shows promises. cases: how many there are of its other parameters; full: trials of each."""

    name: str
    rows: tuple[str, ...]
    cases: int
    full: int
    has_quick: bool


@cache
def shown() -> list[Shown]:
    """Find the tests with a promise's mark, whichever of them were asked for."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        if "mark.promise(" in path.read_text() and path != Path(__file__):
            module = importlib.import_module(".".join(path.relative_to(TESTS.parent).with_suffix("").parts))
            tests = [value for name, value in vars(module).items() if name.startswith("test_")]
            found += [one for test in tests if (one := _read(f"{path.stem}.{test.__name__}", test))]
    return found


def _read(name: str, test: Callable[..., None]) -> Shown | None:
    marks: list[pytest.Mark] = getattr(test, "pytestmark", [])
    promises = [mark for mark in marks if mark.name == "promise"]
    if not promises:
        return None
    rows = tuple(row for mark in promises for row in mark.args)
    cases = math.prod(len(mark.args[1]) for mark in marks if mark.name == "parametrize")
    counts = promises[0].kwargs
    assert ("trials" in inspect.signature(test).parameters) == bool(counts), f"{name}: counts go with `trials`"
    has_quick = "quick" in counts if counts else all(mark.name != "slow" for mark in marks)
    return Shown(name, rows, cases, counts.get("full", 1), has_quick)


@pytest.mark.parametrize("row", PROMISES)
def test_every_promise_has_a_quick_form_and_its_full_count(row: str) -> None:
    tests = [test for test in shown() if row in test.rows]
    assert any(test.has_quick for test in tests), f"no quick test shows {row}"
    trials = sum(test.cases * test.full for test in tests)
    assert trials >= IN_ALL.get(row, 1), f"{row}: {trials} trials in all"
    most = max(test.full for test in tests)
    assert most >= IN_EACH.get(row, 1), f"{row}: {most} trials of a test"


def test_the_promises_are_in_the_order_of_their_numbers_and_every_mark_is_one_of_them() -> None:
    numbers = [int(name.removeprefix("R")) for name in PROMISES]
    assert numbers == sorted(set(numbers)) and numbers[:25] == list(range(1, 26))
    assert {row for test in shown() for row in test.rows} <= PROMISES.keys()


def test_the_page_says_how_each_promise_is_kept() -> None:
    assert re.findall(r"^\| (R\d+) \| [^|]+ \| [^|]+ \|$", PAGE.read_text(), flags=re.MULTILINE) == list(PROMISES)


def test_the_written_table_says_what_was_skipped(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    _write(page, {"R1": Row(2, 50, 50), "R2": Row(3, 1200, 1199, skipped=1), "R3": Row(2, 0, 0, skipped=2)})
    held = [line.split("|")[-2].strip() for line in page.read_text().splitlines() if line.startswith("| R")]
    assert held == ["50", "1,199 (1 skipped)", "not run (2 skipped)"]


def test_parts_of_a_run_are_put_together_if_they_are_of_one_version(tmp_path: Path) -> None:
    first, second, page = tmp_path / "a.json", tmp_path / "b.json", tmp_path / "page.md"
    _write(first, {"R1": Row(2, 50, 50), "R18": Row(1, 30, 29)})
    _write(second, {"R18": Row(29, 290_000, 290_000)})
    parts = [json.loads(path.read_text()) for path in (first, second)]
    write_page(page, parts)
    assert f"| R18 | {PROMISES['R18']} | 30 | 290,030 | 290,029 |" in page.read_text()
    assert f"| R1 | {PROMISES['R1']} | 2 | 50 | 50 |" in page.read_text()
    parts[1]["made"]["git"] = "another"
    with pytest.raises(ValueError, match="different versions"):
        write_page(page, parts)
