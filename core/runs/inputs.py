"""A stage's inputs: the directories of the stages before it, found, opened, described and followed."""

import os
import shlex
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, DataError
from ..files import is_inside
from ..settings.fields import Run, Section
from .commands import command_of, is_labelled, placed
from .outputs import command_line
from .roles import Role
from .run import IDENTITY, MANIFEST, StageRun, check_producer, kind_of, open_run
from .schemas import first_wrong
from .states import mend, training_of

Group = TypeVar("Group", bound=Section)


def open_own(role: Role, config: Run, folder: Path | None = None, setting: str = "") -> StageRun:
    """Open a complete directory of one role: in the folder that a setting names, or the run's own.

    Raises ConfigError as `chosen` does, and DataError with the command that would make it.
    """
    folder = chosen(role, config, folder, setting)
    return open_run(folder, role, made_by(role, config, folder), mend(folder) if training_of(folder) else "")


def open_producer(run: StageRun, name: str, role: Role, config: Run) -> StageRun:
    """Open what a run names as its input. Raises DataError where that is missing, or changed since."""
    folder = input_path(run, name)
    producer = open_run(folder, role, made_by(role, config, folder))
    check_producer(run, name, producer)
    return producer


def own_folders(role: Role, root: Path) -> list[Path]:
    """List the folders of one role that a run has: one, unless several commands made such directories in it."""
    return [root / kind for kind in role.makers if has_begun(root / kind)]


def chosen(role: Role, config: Run, folder: Path | None, setting: str) -> Path:
    """Return the folder that a setting names, else the run's own, there or not.

    Raises ConfigError, naming the setting, for a folder of another role, and where the run has several.
    """
    usual = next(iter(role.makers))
    if folder is None:
        own = own_folders(role, config.root)
        if len(own) > 1:
            raise ConfigError(f"the run has {' and '.join(map(str, own))}", f"choose one: `{setting}={own[0]}`")
        return own[0] if own else config.root / usual
    remedy = f"give the folder of such a stage, as runs/NAME/{usual}"
    if not folder.is_dir():
        raise ConfigError(f"`{setting}={folder}` {'is a file' if folder.exists() else 'does not exist'}", remedy)
    found = kind_of(folder)
    if found is not None and found not in role.makers:
        raise ConfigError(f"`{setting}={folder}` holds {found!r}, not {' or '.join(map(repr, role.makers))}", remedy)
    if not has_begun(folder):
        raise ConfigError(f"`{setting}={folder}` was not written by ldm", remedy)
    return folder


def has_begun(folder: Path) -> bool:
    """Return whether a stage wrote the folder, complete or not."""
    return any((folder / name).is_file() for name in (MANIFEST, IDENTITY))


def made_by(role: Role, config: Run, folder: Path) -> str:
    """Return the command line that makes a folder of that role where it lies, with the settings that it had."""
    if has_begun(folder):
        return command_of(folder, role)
    words = shlex.split(command_line(role.command(folder.name), config))
    if (folder.parent.parent if is_labelled(folder, role) else folder.parent) != config.root:
        words = ["ldm", *role.command(folder.name).split(), *placed(folder, role)]
    return shlex.join([*words, *role.given.split()])


def as_input(run: StageRun, folder: Path) -> dict[str, Any]:
    """Describe a run as an input of the stage in `folder`: where it lies from there, and what it holds."""
    return {"path": Path(os.path.relpath(run.path, folder)).as_posix(), "fingerprint": run.fingerprint}


def input_path(run: StageRun, role: str) -> Path:
    """Return the path of a run's own input."""
    recorded = run.inputs.get(role)
    if recorded is None:
        raise DataError(f"{run.path} does not say which {role} it was made with", run.remedy)
    if not all(part in ("", ".", "..") or is_inside(part) for part in recorded["path"].split("/")):
        raise DataError(f"{run.path} was made with {role} {recorded['path'][:80]!r}, which is not a path", run.remedy)
    return Path(os.path.normpath(run.path / recorded["path"]))


def section_of(form: type[Group], value: object, run: StageRun, where: str) -> Group:
    wrong = first_wrong(form, value)
    if wrong is not None:
        raise DataError(f"{run.path / MANIFEST}: {where}: {wrong}", run.remedy)
    return form.model_validate(value)
