"""A list of images to leave out of training, by name: read, written, and matched with the images there are.

A text file with a name on each line, as `ldm data dedup` writes them; lines that begin with # are comments. A name that
no line can hold stands there in double quotes, as in JSON. A file that is one JSON list of names serves as well.

Where two parts of the data name their images alike, as idx, npz and tars do, `train/000012` is that image of the part.
"""

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .. import files
from ..errors import DataError
from .dataset import ImageSource, is_text, listed

_QUOTED = re.compile(r'\A(["#[\s]|\Z)|\s\Z|[\x00-\x1f\x7f]')  # what a line would not give back


@dataclass(frozen=True)
class Exclusion:
    """The names of images to leave out, and the file that lists them."""

    path: Path
    names: frozenset[str]

    @property
    def sha256(self) -> str:
        """The sha256, hex, of the names, in whatever order and form they are listed."""
        encoded = sorted(name.encode("utf-8", "surrogateescape") for name in self.names)
        return hashlib.sha256(b"\0".join(encoded)).hexdigest()

    def leave_out(
        self,
        parts: Sequence[tuple[str, ImageSource]],
        others: Callable[[], Sequence[tuple[str, ImageSource]]] = tuple,
    ) -> list[tuple[str, ImageSource]]:
        """Return the named parts without what is listed; `others` gives parts that are not used but may be listed.

        Raises DataError naming what is in no part, what could be two images, a class of which nothing would be left in
        the first part, and a part that would be empty.
        """
        found: dict[str, tuple[int, int]] = {}
        for place, (part, source) in enumerate(parts):
            for row, name in enumerate(source.names):
                for spelled in {name, f"{part}/{name}"} & self.names:
                    if spelled in found:
                        twice = f"{parts[found[spelled][0]][0]}/… and {part}/…"
                        raise DataError(f"{self.path}: {spelled} could be two images", f"write which: {twice}")
                    found[spelled] = place, row
        self._require_known(self.names - found.keys(), parts, others)

        kept = []
        for place, (part, source) in enumerate(parts):
            rows = np.ones(len(source), dtype=bool)
            rows[[row for at, row in found.values() if at == place]] = False
            kept.append((part, source if rows.all() else source.subset(np.flatnonzero(rows))))
            self._require_left(source, kept[-1][1], whole_classes=place == 0)
        return kept

    def _require_known(
        self,
        unknown: frozenset[str],
        parts: Sequence[tuple[str, ImageSource]],
        others: Callable[[], Sequence[tuple[str, ImageSource]]],
    ) -> None:
        for part, source in others() if unknown else ():
            unknown = unknown.difference(source.names, (f"{part}/{name}" for name in source.names))
        if unknown:
            message = f"{self.path} lists what is not an image of {parts[0][1].location}: {listed(sorted(unknown), 3)}"
            raise DataError(message, "take them off the list, or make it again with `ldm data dedup --exclude-out`")

    def _require_left(self, before: ImageSource, after: ImageSource, whole_classes: bool) -> None:
        if not len(after):
            raise DataError(f"{self.path} leaves out every image of {before.location}", "keep some of them")
        gone = set(before.labels.tolist()) - set(after.labels.tolist())
        if gone and whole_classes:
            class_name = before.class_names[min(gone)]
            raise DataError(f"{self.path} leaves out every image of class {class_name}", "keep some of them")


def shared_names(parts: Sequence[tuple[str, ImageSource]]) -> frozenset[str]:
    """Return the names that alone do not say which image is meant: those of images in several parts."""
    seen: set[str] = set()
    shared: set[str] = set()
    for part, source in parts if len(parts) > 1 else ():
        spelled = {*source.names, *(f"{part}/{name}" for name in source.names)}
        shared |= seen & spelled
        seen |= spelled
    return frozenset(shared)


def read_exclusion(path: Path) -> Exclusion:
    """Read a list of names; DataError naming the file, and the line, where it cannot be read."""
    try:
        data = files.read_plain(path)
    except OSError as error:
        raise DataError(
            f"{path} cannot be read: {error.strerror}", "give a text file with a name on each line"
        ) from None
    text = data.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    whole = _as_json_list(text)
    if whole is not None:
        return Exclusion(path, frozenset(whole))
    names = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.removesuffix("\r")
        if not line.strip() or line.startswith("#"):
            continue
        names.append(_unquoted(line, f"{path} line {number}") if line.startswith('"') else line)
    return Exclusion(path, frozenset(names))


def write_exclusion(path: Path, names: Iterable[str], about: Sequence[str] = ()) -> None:
    """Write a list of names, whole or not at all, below `about` as comments."""
    lines = [*(f"# {line}" for line in about), *(json.dumps(name) if _QUOTED.search(name) else name for name in names)]
    files.write_bytes(path, "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))


def _as_json_list(text: str) -> list[str] | None:
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) and all(map(is_text, value)) else None


def _unquoted(line: str, place: str) -> str:
    try:
        value = json.loads(line)
    except ValueError:
        value = None
    if not is_text(value):
        raise DataError(f"{place} begins with a quote and is not a JSON string of a name: {line}", "mend it")
    return str(value)
