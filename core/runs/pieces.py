"""What unfinished work goes on from, bound to it: a checksum of each finished piece, and whose work it is.

`identity.json` says which settings and inputs the work in a directory is of. The sha256 of that is in every line of
`pieces.jsonl`, one for each shard or image as it is finished, and in the `state.json` of every checkpoint. What was
damaged since, or was made by other work, is recognised by it and not adopted. Imports no torch.
"""

import json
import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..errors import DataError
from ..system.machine import num_cores

IDENTITY = "identity.json"
PIECES = "pieces.jsonl"
BOUND = "bound"  # key of an identity: all its pieces and checkpoints say whose they are
BEFORE = "before"  # key of an identity: the sha256 of those that it had when it was of fewer images
PLACES = "places"  # key of an identity: settings that name what was read; its inputs say what that held
CHECKPOINTS = "checkpoints"  # folder of what a training goes on from


@dataclass(frozen=True)
class Owner:
    """Whose work a directory holds.

    sha256: of its identity. strict: all that was saved in it records its owner. before: of identities whose work this
    one goes on with.
    """

    sha256: str
    strict: bool
    before: tuple[str, ...] = ()

    def owns(self, recorded: object) -> bool:
        """Return whether what a piece or checkpoint records of its owner, None where it records none, is this one."""
        return recorded in (self.sha256, *self.before) or (recorded is None and not self.strict)


def sha256_of(identity: Mapping[str, Any]) -> str:
    """Return the sha256 that pieces and checkpoints of an identity record: of settings and contents, not of places."""
    return files.sha256_json({name: value for name, value in identity.items() if name not in (BOUND, BEFORE, PLACES)})


def owner_of(folder: Path) -> Owner | None:
    """Return whose work a directory holds; None where it has no identity. Raises DataError for a damaged one."""
    if not (folder / IDENTITY).is_file():
        return None
    identity = files.read_json(folder / IDENTITY)
    before = identity.get(BEFORE, [])
    known = tuple(filter(lambda each: isinstance(each, str), before)) if isinstance(before, list) else ()
    return Owner(sha256_of(identity), bool(identity.get(BOUND, False)), known)


class Pieces:
    """The finished pieces of a directory's unfinished work. hashes: file → sha256, of all that are recorded."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.owner = folder, owner_of(folder)
        self.hashes = _read(folder / PIECES, self.owner.sha256 if self.owner else None)

    def add(self, hashes: Mapping[str, str]) -> None:
        """Record finished files. Several processes may do so at once: each call is one write at the file's end."""
        owner = self.owner.sha256 if self.owner else None
        lines = [json.dumps({"file": name, "sha256": digest, "owner": owner}) for name, digest in hashes.items()]
        with files.saying_disk_full(self.folder / PIECES):
            handle = os.open(self.folder / PIECES, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, "".join(f"\n{line}" for line in lines).encode())  # After what a kill may have cut.
            finally:
                os.close(handle)
        self.hashes |= hashes

    def whole(self, names: Iterable[str], warn: Callable[[str], None]) -> list[bool]:
        """Return which files are there as they were finished by this work; the others are to be made.

        warn: is called with each that is there but damaged, or not of this work.
        """

        def problem(name: str) -> str | None:
            try:
                self.check(name)
            except DataError as error:
                return error.message
            return None

        listed = list(names)
        there = [name for name in listed if (self.folder / name).exists()]
        with ThreadPoolExecutor(num_cores()) as pool:
            found = dict(zip(there, pool.map(problem, there), strict=True))
        for message in filter(None, found.values()):
            warn(f"{message}: it is made again")
        return [name in found and found[name] is None for name in listed]

    def check(self, name: str, remedy: str | None = None) -> None:
        """Raise DataError for a file that is damaged, or not recorded as finished by this work."""
        path, recorded = self.folder / name, self.hashes.get(name)
        if recorded is None:
            raise DataError(f"{path} is not listed in {PIECES}", remedy)
        if not path.is_file() or files.sha256_file(path) != recorded:
            raise DataError(f"{path} is damaged: its sha256 differs from {PIECES}", remedy)


def _read(path: Path, owner: str | None) -> dict[str, str]:
    """Read the lines of one owner; of several on a file the last counts, and one cut short by a kill is left out."""
    hashes: dict[str, str] = {}
    if not path.exists():
        return hashes
    for text in files.read_plain(path).decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and line.get("owner") == owner:
            name, digest = line.get("file"), line.get("sha256")
            if isinstance(name, str) and isinstance(digest, str) and files.is_inside(name):
                hashes[name] = digest
    return hashes
