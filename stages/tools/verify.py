"""`ldm verify`: is every byte that stages read of each other what was written, and do the stages of a run fit together?

Logs and previews (metrics.jsonl, loss.png, samples/, reconstructions/) have no recorded checksum.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ...core import files
from ...core.errors import DataError, UserError
from ...core.interchange.export_record import read_record
from ...core.progress import Outcome, Progress
from ...core.runs import checkpoint
from ...core.runs.commands import import_of, imported_as
from ...core.runs.inputs import input_path
from ...core.runs.lock import owner
from ...core.runs.pieces import Pieces
from ...core.runs.roles import Role
from ...core.runs.run import IDENTITY, MANIFEST, RECIPE, StageRun, check_producer
from ...core.runs.states import training_of
from ...core.runs.weights import CONFIG
from ...core.settings.fields import Section, as_formerly, identity
from ...core.settings.recipe_file import read_settings
from ..command import named
from ..configs.folders import Verify
from ..table import KINDS, MAKERS, STAGES
from .directories import (
    CHECKPOINT,
    NETWORK,
    Piece,
    as_recorded_now,
    find,
    identifying,
    opened,
    recipe_command,
    recognise_stage,
    states,
    torn_states,
)

_NETWORKS = list(dict.fromkeys(kind.network for kind in KINDS.values() if kind.network))


@dataclass(frozen=True)
class Check:
    """One thing to look at; `look` raises DataError if it is wrong.

    whole: the path in which nothing may have been found wrong before, or there is nothing to look at.
    """

    look: Callable[[], object]
    path: Path
    whole: bool = False


def run(config: Verify, progress: Progress) -> Outcome:
    """Check all that lies at a path. Each problem is a warning with its remedy; raises DataError if there is any."""
    found = find(config.path)
    checks = [check for directory in found for check in _checks(directory)]
    problems: dict[str, str | None] = {}
    damaged: set[Path] = set()
    progress.start("verifying", len(checks), "checks")
    for done, check in enumerate(checks, 1):
        try:
            if not (check.whole and check.path in damaged):
                check.look()
        except DataError as error:
            damaged.add(check.path)
            if error.message not in problems:
                problems[error.message] = error.remedy
                progress.warn(str(error))
        progress.update(done)
    progress.finish()
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else next(iter(problems))
        remedies = list(dict.fromkeys(filter(None, problems.values())))
        raise DataError(f"{config.path} is not whole: {count}", "; then ".join(remedies))
    counts = {kind: sum(each.kind == kind for each in found) for kind in dict.fromkeys(each.kind for each in found)}
    listed = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items())
    return Outcome(config.path, summary={"verified": listed, "checks": f"{len(checks):,}"}, verdict="is whole")


def _checks(found: StageRun | Piece) -> Iterator[Check]:
    """Yield all there is to check in one directory, what others rest on first."""
    path = found.path
    if isinstance(found, StageRun):
        if (writer := owner(path)) is not None:
            error = DataError(f"{path} is being written by {writer}", "verify it when that has ended")
            yield Check(partial(_fail, error), path)
        else:
            yield from _stage_checks(found)
    elif found.kind == CHECKPOINT:
        yield Check(partial(_checkpoint_loads, path), path)
    elif found.kind == NETWORK:
        yield Check(partial(_network_is_whole, path), path)
    else:
        yield from _export_checks(path)


def _export_checks(path: Path) -> Iterator[Check]:
    try:
        record = read_record(path)
    except DataError as error:
        yield Check(partial(_fail, error), path)
    else:
        yield from (Check(partial(record.check, name), path) for name in record.hashes)


def _stage_checks(found: StageRun) -> Iterator[Check]:
    path, kind = found.path, KINDS.get(found.kind)
    try:
        run = opened(found)
    except DataError as error:
        yield Check(partial(_fail, error), path)
        if not found.complete and kind is not None and kind.pieces:
            yield from _piece_checks(path, error.remedy)
    else:
        if training_of(path) is None:  # The recipe first: the remedies for the others name it.
            yield Check(partial(_recipe_fits, run, recipe_command(found)), path)
            yield Check(partial(_identity_fits, run), path)
        for name in run.manifest["files"]:
            yield Check(partial(run.verify, name), path)
        for name, role in kind.inputs.items() if kind is not None else ():
            if name in run.inputs:
                yield Check(partial(_producer_fits, run, name, role), path)
        if kind is not None and kind.contents:
            yield Check(partial(named(kind.contents), run), path, whole=True)
    for each in (*checkpoint.saved(path), *checkpoint.emas(path)):
        yield Check(partial(_checkpoint_loads, each), path)
    for state in states(path):
        yield from _stage_checks(state)
    for torn, remedy in torn_states(path).items():
        yield Check(partial(_fail, DataError(f"{torn} has no {MANIFEST}", remedy)), path)


def _piece_checks(path: Path, remedy: str | None) -> Iterator[Check]:
    """Yield a check of each piece from which the same command would continue."""
    try:
        pieces = Pieces(path)
    except DataError as error:
        yield Check(partial(_fail, error, remedy), path)
    else:
        there = [name for name in pieces.hashes if (path / name).exists()]
        yield from (Check(partial(pieces.check, name, remedy), path) for name in there)


def _fail(error: DataError, remedy: str | None = None) -> None:
    """Raise what was found wrong, with another remedy if there is one."""
    raise DataError(error.message, remedy or error.remedy) from None


def _checkpoint_loads(path: Path) -> None:
    try:
        checkpoint.load(path)
    except DataError as error:
        _fail(error, error.remedy or checkpoint.mend(path))


def _network_is_whole(path: Path) -> None:
    """Load a network by the module of the kind of directory that holds such."""
    try:
        kind = files.read_json(path / CONFIG).get("kind")
        place = next((place for place in _NETWORKS if kind in named(f"{place}:NETWORKS")), _NETWORKS[0])
        named(f"{place}:load")(path)
    except DataError as error:
        stage = recognise_stage(path.parent)
        _fail(error, stage.remedy if stage is not None else None)


def _identity_fits(made: StageRun) -> None:
    """Compare the settings by which a stage knows its directory again with those in the manifest."""
    found = files.read_json(made.path / IDENTITY, made.remedy)
    inputs = {role: entry["fingerprint"] for role, entry in made.inputs.items()}
    recorded = found.get("inputs")
    theirs = {
        role: entry.get("fingerprint") if isinstance(entry, dict) else None
        for role, entry in (recorded if isinstance(recorded, dict) else {}).items()
    }
    config = found.get("config")  # It was written when the directory was begun, perhaps by an earlier version.
    settings = identifying(made.kind, config) if isinstance(config, dict) else None
    known = identifying(made.kind, made.config)
    if (found.get("kind"), settings, theirs) != (made.kind, known, inputs):
        message = f"{made.path / IDENTITY} is damaged: it says other settings or inputs than {MANIFEST}"
        raise DataError(message, made.remedy)


def _recipe_fits(made: StageRun, written_by: str) -> None:
    """Compare the recipe, which remedies name, with the settings in the manifest."""
    path, command = made.path / RECIPE, MAKERS.get(made.kind)
    imported = import_of(made.path)
    if imported is not None and imported != imported_as(made.path):
        raise DataError(f"{path} is damaged: it says another import than {MANIFEST}", made.anew)
    if command is None or command.name not in STAGES or imported is not None:
        return
    remedy = f"write it again: {written_by}"
    try:
        default, settings = command.settings(), read_settings(path).tree.get(command.name)
        if isinstance(settings, dict):  # In a recipe nothing may stand under the name of a section.
            empty = {key for key in settings if settings[key] is None and isinstance(getattr(default, key, 0), Section)}
            settings = {key: value for key, value in settings.items() if key not in empty}
        seen = command.settings.model_validate(settings)
    except (UserError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a recipe: {str(error).splitlines()[0]}", remedy) from None
    if as_recorded_now(made.kind, made.config) not in (identity(seen), identity(as_formerly(seen))):
        raise DataError(f"{path} is damaged: it says other settings than {MANIFEST}", remedy)


def _producer_fits(made: StageRun, name: str, role: Role) -> None:
    """Check that the directory which a directory was made of still holds what it held."""
    producer = recognise_stage(input_path(made, name))
    if producer is not None and producer.kind in role.makers:
        check_producer(made, name, opened(producer))
    elif role.needed:
        gone = input_path(made, name)
        raise DataError(f"{made.path} was made with the {name} in {gone}, which is gone", f"bring {gone} back")
