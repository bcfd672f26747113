"""The ledger of the promises: which test shows which, in how many trials, and in how many each held.

A test that shows a promise is marked with its number. One that takes the fixture `trials` runs its body once per
trial, a few times in `make test` and the full count in `make test-all`:

    @pytest.mark.promise("R3", quick=5, full=100)
    def test_every_damage_is_named(trials: Trials) -> None:
        for random in trials:
            ...

The draws of a trial are a function of the seed, the test and the trial's number. Quick forms always have the same seed:
`make test` is to fail for what was changed, not for what nobody has mended yet. That of full forms is new in every run
and shown at its end; `--promises-seed` repeats it. Without `trials` a test counts as one trial. Tests by hypothesis
keep to the same rule, by its profiles.
"""

import json
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

PROMISES = {
    "R1": "kill -9 at any moment of a training loses at most the work since the last checkpoint",
    "R2": "kill -9 at any moment of encode and sample changes no byte of what they write",
    "R3": "a checkpoint is whole or invisible",
    "R4": "latents are what was written",
    "R5": "a full disk is named and destroys nothing",
    "R6": "SIGTERM, SIGHUP, SIGINT and SIGUSR1 leave a checkpoint and exit 75",
    "R7": "resuming is exact in the order of the data",
    "R8": "the world size does not change the data",
    "R9": "NaN and inf go no further than the step they occur in",
    "R10": "one run in a directory at a time",
    "R11": "every kind of image gives the right pixels or a named refusal",
    "R12": "a decompression bomb takes less than 300 MB",
    "R13": "as many samples come out as strange names went in",
    "R14": "links end, and are named or counted",
    "R15": "wrong labels are named before training",
    "R16": "an output that cannot be written is refused before any data is read",
    "R17": "no code from data or weights is run",
    "R18": "mutated files give our error, in time and in little memory",
    "R19": "old files load, or are refused with what to do",
    "R20": "a configuration at odds with the weights is refused",
    "R21": "stages refuse what does not fit, by hash",
    "R22": "the same command gives the same bytes, whatever the batch size of sample",
    "R23": "running out of memory is named and leaves the last checkpoint intact",
    "R24": "metrics agree with their references and their closed forms",
    "R25": "an exported model works without ldm",
    "R26": "every remedy that is printed mends, loses nothing, and leads in no circle",
    "R27": "what unfinished work goes on from is its own",
    "R28": "memory is a budget: an input below 1 MB takes less than 300 MB, and an image 5 s to decode",
    "R29": "who reads for people checks as stages do",
    "R30": "signals, vanished folders, special files and closed outputs end in one line, or end nothing",
    "R31": "what the settings accept together trains and samples, also with an imperfect network",
}
_SEED = "LDM_PROMISES_SEED"  # an environment variable, so that xdist's workers draw as one
_BEGIN, _END = "<!-- promises: begin -->", "<!-- promises: end -->"
_RECORD = "promise"
_VERSIONS = ("ldm", "git", "python", "packages")
_QUICK_SEED = 18


class Trials:
    """The trials of one test: as many generators of random numbers, and how many trials held so far.

    full: whether this is the full form, which may take longer runs, too.
    """

    def __init__(self, count: int, full: bool, seed: int, test: str) -> None:
        self.count, self.full, self.seed, self.test = count, full, seed, test
        self.tried = self.held = 0

    def __iter__(self) -> Iterator[np.random.Generator]:
        for number in range(self.count):
            with self.trial():
                yield self.random(number)

    def random(self, number: int) -> np.random.Generator:
        """Return the generator of a trial's draws."""
        from ldm.core.seeds import generator

        return generator(self.seed, self.test, number)

    def trial(self) -> "Trial":
        """Return a context that counts as one trial, which holds if nothing is raised in it."""
        return Trial(self)


class Trial:
    def __init__(self, trials: Trials) -> None:
        self.trials = trials

    def __enter__(self) -> None:
        self.trials.tried += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.trials.held += kind is None


@dataclass
class Row:
    """What the tests of one promise came to."""

    tests: int = 0
    trials: int = 0
    held: int = 0
    skipped: int = 0


@pytest.fixture
def trials(request: pytest.FixtureRequest) -> Trials:
    """The trials of a test that is marked with a promise and its counts."""
    mark = request.node.get_closest_marker("promise")
    assert mark, "say which promise is on trial"
    count, full = request.param
    seed = int(os.environ[_SEED])
    if not full and request.config.getoption("--promises-seed") is None:
        seed = _QUICK_SEED
    return Trials(count, full, seed, request.node.originalname)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("promises")
    group.addoption("--promises-seed", type=int, help="Seed of the random trials; a new one by default.")
    group.addoption("--promises-count", type=int, help="Trials of each test, in place of its own counts.")
    group.addoption("--promises-table", type=Path, help="Also write the table of promises: .json, or Markdown.")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("--promises-seed")
    if seed is not None:
        os.environ[_SEED] = str(seed)
    os.environ.setdefault(_SEED, str(secrets.randbelow(10**9)))
    quick = "not slow" in str(config.getoption("markexpr"))
    settings.register_profile("quick", max_examples=50, derandomize=True, database=None, deadline=None)
    settings.register_profile("full", max_examples=1000, database=None, deadline=None)
    settings.load_profile("quick" if quick else "full")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    mark = metafunc.definition.get_closest_marker("promise")
    if mark is not None and "trials" in metafunc.fixturenames:
        asked = metafunc.config.getoption("--promises-count")
        counts = {form: asked or count for form, count in mark.kwargs.items()}
        forms = [pytest.param((counts["full"], True), id="full", marks=pytest.mark.slow)]
        if "quick" in counts:
            forms.insert(0, pytest.param((counts["quick"], False), id="quick"))
        metafunc.parametrize("trials", forms, indirect=True)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the quick form of a test whose full form runs as well."""
    full = {_form(item)[0] for item in items if _form(item)[1] == "full"}
    items[:] = [item for item in items if _form(item)[0] not in full or _form(item)[1] == "full"]


def _form(item: pytest.Item) -> tuple[object, str | None]:
    """Return what identifies a test and its other parameters, and which form of it this is."""
    call = getattr(item, "callspec", None)
    if call is None or "trials" not in call.params:
        return item.nodeid, None
    form = "full" if call.params["trials"][1] else "quick"
    return (item.path, item.originalname, call.id.replace(form, "", 1)), form


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[Any]:
    """Let the report of a marked test carry its counts, also from a process of xdist."""
    report = yield
    rows = [row for mark in item.iter_markers("promise") for row in mark.args]
    if rows and (report.when == "call" or (report.when == "setup" and not report.passed)):
        counted = getattr(item, "funcargs", {}).get("trials")
        if report.skipped and not hasattr(report, "wasxfail"):
            tried, held = 0, 0
        elif isinstance(counted, Trials):
            tried, held = counted.tried, counted.held
            if report.failed:
                said = f"trial {counted.tried} of {counted.count}; --promises-seed {counted.seed} repeats it"
                report.sections.append(("promise", said))
        else:
            tried, held = 1, int(report.passed)
        report.user_properties.append((_RECORD, [rows, tried, held]))
    return report


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    table = _table(reports)
    if not table:
        return
    terminalreporter.write_sep("=", f"promises, seed {os.environ[_SEED]}")
    terminalreporter.write_line(f"{'':4} {'tests':>5} {'trials':>7} {'held':>7}")
    for name, row in table.items():
        note = f"  ({row.skipped} skipped)" if row.skipped else ""
        terminalreporter.write_line(f"{name:4} {row.tests:5} {row.trials:7,} {row.held:7,}  {PROMISES[name]}{note}")
    path = config.getoption("--promises-table")
    if path is not None:
        _write(path, table)


def _table(reports: list[Any]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for report in reports:
        for name, record in getattr(report, "user_properties", ()):
            if name == _RECORD:
                rows, tried, held = record
                for each in rows:
                    row = found.setdefault(each, Row())
                    row.tests += 1
                    row.trials += tried
                    row.held += held
                    row.skipped += tried == 0
    return {name: found[name] for name in PROMISES if name in found}


def _write(path: Path, table: dict[str, Row]) -> None:
    """Write what a run came to: as JSON, or as a table of Markdown."""
    from ldm.core.runs.provenance import provenance

    rows = {name: vars(row) for name, row in table.items()}
    run = {"seed": int(os.environ[_SEED]), "made": provenance(), "promises": rows}
    if path.suffix == ".json":
        path.write_text(json.dumps(run, indent=2) + "\n")
    else:
        write_page(path, [run])


def write_page(path: Path, runs: Sequence[Mapping[str, Any]]) -> None:
    """Write the table of runs on one version, each of a part of the tests; in a file with the table's marks, between
    them. Raises ValueError for runs of different versions, which make no table."""
    made = runs[0]["made"]
    if any([run["made"][key] for key in _VERSIONS] != [made[key] for key in _VERSIONS] for run in runs):
        raise ValueError("these runs are of different versions")
    table: dict[str, Row] = {}
    for run in runs:
        for name, counts in run["promises"].items():
            row = table.setdefault(name, Row())
            for key, count in counts.items():
                setattr(row, key, getattr(row, key) + count)
    versions = ", ".join(f"{name} {version}" for name, version in made["packages"].items() if version)
    seeds = " and ".join(str(run["seed"]) for run in runs)
    lines = [
        f"Measured {made['created'][:10]} with ldm {made['ldm']} (commit {made['git']}), Python {made['python']},",
        f"{versions}, on {os.cpu_count()} CPU cores; seed {seeds}.",
        "",
        "| | promise | tests | trials | held |",
        "|---|---|---:|---:|---:|",
    ]
    for name in (name for name in PROMISES if name in table):
        row = table[name]
        held = (f"{row.held:,}" if row.trials else "not run") + (f" ({row.skipped} skipped)" if row.skipped else "")
        lines.append(f"| {name} | {PROMISES[name]} | {row.tests} | {row.trials:,} | {held} |")
    text = path.read_text() if path.exists() else ""
    if _BEGIN in text and _END in text:
        before, after = text.split(_BEGIN)[0], text.split(_END)[1]
        path.write_text(f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}")
    else:
        path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    page, *parts = map(Path, sys.argv[1:])
    write_page(page, [json.loads(part.read_text()) for part in parts])
