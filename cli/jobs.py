"""Drawings that a file lists, checked before the first is drawn, and drawn with the networks loaded once.

A line of a text file has the options of one, as they are typed behind `ldm sample`; `#` begins a comment. A YAML file
has the settings of each below its label. What was given on the command line holds for all where they say nothing else.
"""

import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.errors import ConfigError, UserError
from ..core.files import read_plain
from ..core.pipeline.generator import Loaded
from ..core.progress import Outcome, Progress
from ..core.settings.recipe_file import leaves, read_settings
from ..stages import sample
from ..stages.configs import Sample
from .commands import Command
from .failures import UsageError
from .layers import given_layer, seed_chosen, validated
from .options import Given, stage_command
from .recipe import merge

COMMAND = Sample.command
OF_ALL = ("jobs", "interactive")  # settings of the whole command
_YAML = (".yaml", ".yml")


@dataclass(frozen=True)
class Job:
    """One of the drawings of a file. where: its file and line."""

    where: str
    config: Sample


def run(config: Sample, progress: Progress) -> Outcome:
    """Draw all that a file lists; what is complete stays. Returns the folder of the samples."""
    assert config.jobs is not None
    if config.label is not None:
        raise ConfigError(f"`label={config.label}` is one folder, and there are several drawings", "leave it out")
    if config.interactive:
        raise ConfigError("`jobs` and `interactive` are two ways to say what is drawn", "give one of them")
    jobs = read_jobs(config.jobs, common(config))

    # Everything is checked, and has a folder of its own, before anything is loaded or drawn.
    places: dict[Path, str] = {}
    labels = []
    for job in jobs:
        with named(job.where):
            asked = sample.ask(job.config)
            folder = asked.config.root / asked.label
            if folder in places:
                raise ConfigError(f"its folder is that of {places[folder]}", "give it another `label`")
        places[folder] = job.where
        labels.append(asked.label)

    # Drawn one after the other. Of the summary of each, the first line.
    loaded, outcomes = Loaded(), []
    for number, job in enumerate(jobs, start=1):
        progress.note(f"{number} of {len(jobs)}: {job.where}")
        with named(job.where):
            outcomes.append(sample.run(job.config, progress, loaded))
    summary = {
        label: "complete already" if outcome.already_complete else next(iter(outcome.summary.values()), "")
        for label, outcome in zip(labels, outcomes, strict=True)
    }
    return Outcome(
        config.root / config.kind,
        already_complete=all(outcome.already_complete for outcome in outcomes),
        summary=summary,
        pictures=[picture for outcome in outcomes for picture in outcome.pictures],
        facts={"folders": [str(outcome.directory) for outcome in outcomes]},
    )


def common(config: Sample) -> dict[str, Any]:
    """Return what was given for all drawings."""
    return config.model_dump(exclude_unset=True, exclude={*OF_ALL})


def read_jobs(path: Path, given: dict[str, Any]) -> list[Job]:
    """Read the drawings of a file. Raises ConfigError naming the line of the first that cannot be used."""
    jobs = _of_yaml(path, given) if path.suffix.lower() in _YAML else _of_lines(path, given)
    if not jobs:
        raise ConfigError(f"{path} lists nothing to draw", "write the options of `ldm sample` on a line")
    return jobs


def _of_yaml(path: Path, given: dict[str, Any]) -> list[Job]:
    read, jobs = read_settings(path), []
    for label, tree in read.tree.items():
        where = f"{path} line {read.lines[(label,)]}"
        if not isinstance(tree, dict | None):
            raise ConfigError(f"{where}: {label} is a label; below it are settings, not {tree!r}")
        layer = {"label": label, **(tree or {})}
        lines = {
            key: f"{path} line {read.lines.get((label, *key.split('.')), read.lines[(label,)])}"
            for key, _ in leaves(layer)
        }
        jobs.append(Job(where, job_of(layer, given, lines)[0]))
    return jobs


def _of_lines(path: Path, given: dict[str, Any]) -> list[Job]:
    try:
        lines = read_plain(path).decode("utf-8-sig").splitlines()
    except OSError as error:
        raise ConfigError(f"`jobs={path}` cannot be read: {error.strerror}", "give another file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: byte {error.start}", "save it as UTF-8") from None
    jobs = []
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        with named(where):
            words = words_of(line)
            if words:
                layer = layer_of(words)
                if layer is None:
                    raise ConfigError("asks for help, and draws nothing", "write the options of one drawing")
                jobs.append(Job(where, job_of(layer, given, dict.fromkeys(dict(leaves(layer)), where))[0]))
    return jobs


def words_of(line: str) -> list[str]:
    """Split a line as a shell does; `#` begins a comment. Raises ConfigError for a quote that does not end."""
    try:
        return shlex.split(line, comments=True)
    except ValueError as error:
        raise ConfigError(f"cannot be read: {error}".lower(), "close the quotes") from None


def layer_of(words: Sequence[str]) -> dict[str, Any] | None:
    """Return the settings that options and `key=value` words give; None where they ask for help, which is shown.

    Raises ConfigError for what the command does not know.
    """
    taken: list[Given] = []
    try:
        _parser(taken.append).main(args=[*words], prog_name=f"ldm {COMMAND}", standalone_mode=False)
    except UsageError as error:
        raise ConfigError(error.format_message().rstrip("."), f"ldm {COMMAND} --help shows how") from None  # type: ignore[attr-defined]
    if not taken:
        return None
    given = taken[0]
    if given.recipe is not None or given.quiet or given.json:
        raise ConfigError("a recipe, --quiet and --json are of the whole command", "leave them out here")
    return given_layer(COMMAND, given.overrides, given.flags)[0]


def _parser(take: Any) -> Command:
    return stage_command(COMMAND, lambda _, given: take(given))


def job_of(layer: dict[str, Any], given: dict[str, Any], origins: dict[str, str]) -> tuple[Sample, int | None]:
    """Return the settings of one drawing, and the seed that was chosen for it, if one was.

    layer: its own, as texts. given: those of all. origins: where each of its own was given.
    """
    for name in OF_ALL:
        if name in layer:
            raise ConfigError(f"`{name}` is of the whole command", "leave it out here")
    values = merge(given, layer)
    chosen = seed_chosen(values)
    config = validated(values, COMMAND, origins)
    assert isinstance(config, Sample)
    return config, chosen


@contextmanager
def named(where: str) -> Iterator[None]:
    """Begin what a user did wrong with the place of it."""
    try:
        yield
    except UserError as error:
        if where not in error.message:
            error.message = f"{where}: {error.message}"
        raise
