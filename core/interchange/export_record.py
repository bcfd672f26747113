"""What an export says of itself in `ldm-export.json`: of what it was made, with what, and the sha256 of each file."""

import os
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import ConfigError, DataError
from ..runs.provenance import provenance

RECORD = "ldm-export.json"
SCHEMA = 1
CARD = "README.md"  # Its licence is left to whom the model belongs to, so that a changed card is not damage.
_OWN_DIGEST = "record_sha256"
_SHARED = ("created", "ldm", "python", "packages", "git")  # The command line and the machine concern nobody else.


@dataclass(frozen=True)
class Record:
    """An export that was written. hashes: of each of its files, by its path from the folder."""

    folder: Path
    content: Mapping[str, Any]
    hashes: Mapping[str, str]

    def changed(self) -> list[str]:
        """List the files, read whole, that are other than they were written, and those that were added."""
        others = [name for name in files_in(self.folder) if name != RECORD]
        return [name for name in others if self.hashes.get(name) != files.sha256_file(self.folder / name)]

    def missing(self) -> list[str]:
        return sorted(self.hashes.keys() - set(files_in(self.folder)))

    def check_size(self, name: str) -> None:
        """Raise DataError for a file that is missing, or longer or shorter than it was written."""
        path, sizes = self.folder / name, self.content.get("bytes")
        if not path.is_file():
            raise DataError(f"{path} is missing", self.remedy())
        size = sizes.get(name) if isinstance(sizes, Mapping) else None
        if name != CARD and size not in (None, path.stat().st_size):
            raise DataError(
                f"{path} is damaged: it has {path.stat().st_size:,} bytes, and had {size:,}"
                if isinstance(size, int)
                else f"{self.folder / RECORD} is damaged: it says no size of {name}",
                self.remedy(),
            )

    def check(self, name: str) -> None:
        """Raise DataError for a file that is missing, or another than was written; the card is not compared."""
        self.check_size(name)
        if name != CARD and files.sha256_file(self.folder / name) != self.hashes[name]:
            message = f"{self.folder / name} is damaged: its sha256 differs from {self.folder / RECORD}"
            raise DataError(message, self.remedy())

    def remedy(self) -> str:
        """Say what makes the export whole again. `ldm export` discards no file that may be somebody's own."""
        away = [shlex.quote(str(self.folder / name)) for name in self.changed()]
        moved = f"move {', '.join(away)} away; then " if away else ""
        return f"{moved}make it again: {self.command} --replace"

    @property
    def command(self) -> str:
        """The command line that writes it where it lies now, if its run lies where it lay from there."""
        words = ["ldm", "export", str(self.folder)]
        made_of = self.content.get("made_of")
        if isinstance(made_of, Mapping) and isinstance(part := made_of.get("part"), str):
            words += ["--part", part]
        prompts = made_of.get("prompts") if isinstance(made_of, Mapping) else None
        words += [word for prompt in prompts or () for word in ("--prompt", str(prompt))]
        if isinstance(made_of, Mapping) and isinstance(scale := made_of.get("cfg"), float):
            words += ["--cfg", f"{scale:g}"]
        origin = self.content.get("from")
        origin = origin if isinstance(origin, Mapping) else {}
        if not isinstance(run := origin.get("run"), str):
            return shlex.join(words) + " --name RUN"
        root = Path(os.path.normpath(self.folder / run))
        words += ["--runs-dir", str(root.parent), "--name", root.name]
        if isinstance(denoiser := origin.get("denoiser"), str):
            words += ["--denoiser", os.path.normpath(self.folder / denoiser)]
        return shlex.join(words)


def read_record(folder: Path) -> Record:
    """Read an export's record. Raises DataError where it is damaged, or there is none."""
    remedy = f"move {folder} away; then make it again: ldm export {shlex.quote(str(folder))} --name RUN"
    content = files.read_sealed(folder / RECORD, _OWN_DIGEST, SCHEMA, remedy)
    hashes = content.get("files")
    if not isinstance(hashes, dict) or not all(
        isinstance(value, str) and files.is_inside(name) for name, value in hashes.items()
    ):
        raise DataError(f"{folder / RECORD} is damaged: it lists no files", remedy)
    return Record(folder, content, hashes)


def check_export(folder: Path) -> None:
    """Compare a folder, or the one that it is a part of, with the record of our own export, where it has one.

    Raises DataError for a file that is missing, or another than was written.
    """
    for each in (folder, folder.parent):
        if (each / RECORD).is_file():
            record = read_record(each)
            for name in record.hashes:
                record.check(name)
            return


def is_made(folder: Path, made_of: Mapping[str, Any], replace: bool) -> bool:
    """Return whether a folder holds this export already. Raises ConfigError for one that may not be overwritten.

    Only unchanged files of an export are ever discarded. replace: whether to discard these, and make the export again.
    """
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{folder} is a file, not a folder", "give another folder")
    found = files_in(folder) if folder.is_dir() else []
    if not found and not (folder.is_dir() and any(folder.iterdir())):
        return False
    if not (folder / RECORD).is_file():
        raise ConfigError(f"{folder} is not empty, and not an export of ldm", "give a new folder")
    record = read_record(folder)
    foreign, is_missing = record.changed(), bool(record.missing())
    if not foreign and not is_missing and record.content.get("made_of") == made_of and not replace:
        return True
    if foreign:
        raise ConfigError(
            f"{folder / foreign[0]} was changed or added since the export: it is not discarded",
            "move it away, or give a new folder",
        )
    if not replace:
        state = "that is not whole" if is_missing else "of another state of the run"
        raise ConfigError(f"{folder} holds an export {state}", "give `replace`, or a new folder")
    return False


def write_record(folder: Path, made_of: Mapping[str, Any], final: Path, run: Path, denoiser: Path | None) -> None:
    """Write the record of the files that lie in a folder, which is to become `final`.

    run, denoiser: what was exported.
    """
    names = files_in(folder)
    made = provenance()
    origin = {"run": os.path.relpath(run, final)}
    if denoiser is not None:
        origin["denoiser"] = os.path.relpath(denoiser, final)
    content = {
        "made_of": dict(made_of),
        "from": {role: Path(path).as_posix() for role, path in origin.items()},
        "provenance": {name: made[name] for name in _SHARED},
        "files": {name: files.sha256_file(folder / name) for name in names},
        "bytes": {name: (folder / name).stat().st_size for name in names},
    }
    files.write_json(folder / RECORD, files.sealed(content, _OWN_DIGEST))


def files_in(folder: Path) -> list[str]:
    """List the files of a folder by their paths from it."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
