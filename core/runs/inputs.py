"""What a stage is handed: the folders of the stages before it, found, described and followed."""

import os
from pathlib import Path
from typing import Any, TypeVar

from ..errors import ConfigError, DataError
from ..files import is_inside
from ..settings.fields import Section
from . import artifacts
from .artifacts import Artifact
from .schemas import first_wrong

Group = TypeVar("Group", bound=Section)


def chosen(folder: Path | None, flag: str, default: Path, kind: str) -> Path:
    """Return the folder of a stage that a flag names, or the default where it names none.

    Raises ConfigError, naming the flag, where it is no folder of that kind of stage.
    """
    if folder is None:
        return default
    remedy = f"give the folder of such a stage, as runs/NAME/{kind}"
    if not folder.is_dir():
        raise ConfigError(f"{flag} {folder} {'is a file' if folder.exists() else 'does not exist'}", remedy)
    found = artifacts.kind_of(folder)
    if found not in (None, kind):
        raise ConfigError(f"{flag} {folder} holds {found!r}, not {kind!r}", remedy)
    if not any((folder / name).is_file() for name in (artifacts.MANIFEST, artifacts.IDENTITY)):
        raise ConfigError(f"{flag} {folder} was made by no stage", remedy)
    return folder


def as_input(artifact: Artifact, folder: Path) -> dict[str, Any]:
    """Describe an artifact as an input of the stage in `folder`: where it lies from there, and what it holds."""
    return {"path": Path(os.path.relpath(artifact.path, folder)).as_posix(), "fingerprint": artifact.fingerprint}


def input_path(artifact: Artifact, role: str) -> Path:
    """Return where an artifact's own input lies."""
    recorded = artifact.manifest["inputs"].get(role)
    if recorded is None:
        raise DataError(f"{artifact.path} does not say which {role} it was made with", artifact.remedy)
    if not all(part in ("", ".", "..") or is_inside(part) for part in recorded["path"].split("/")):
        raise DataError(f"{artifact.path} was made with {role} {recorded['path'][:80]!r}, no path", artifact.remedy)
    return Path(os.path.normpath(artifact.path / recorded["path"]))


def section_of(form: type[Group], value: object, artifact: Artifact, where: str) -> Group:
    wrong = first_wrong(form, value)
    if wrong is not None:
        raise DataError(f"{artifact.path / artifacts.MANIFEST}: {where}: {wrong}", artifact.remedy)
    return form.model_validate(value)
