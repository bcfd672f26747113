"""Labels and numbers of images out of `labels.csv`: which conditioning they make, and the field of each sample."""

import csv
import io
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch

from ..conditioning.attributes import ATTRIBUTES, STORED, AttributeConditioning, Number
from ..conditioning.captions import Fields
from ..conditioning.conditioning import Conditioning
from ..errors import DataError
from ..files import sha256_json
from ..images.caption_files import decoded
from ..images.dataset import ImageSource, is_text, listed
from ..images.sets import ImageSources
from ..progress import Progress

TABLE = "labels.csv"
INPUT = "labels"  # role of what the file says, among a stage's inputs
MOST = 64  # labels and numbers together: the network has an embedding of each
_FILES, _LABELS = ("file", "file_name", "filename", "image", "path"), "labels"
_REMEDY = "write the columns file, labels (cat;outdoor) and one for each number"
_LONGEST = 100  # letters of a name


@dataclass(frozen=True)
class Row:
    """What the file says of an image."""

    labels: tuple[str, ...]
    numbers: Mapping[str, float]


class Attributes:
    """Labels and numbers as the condition of images; see `ImageCondition`."""

    mirrors: ClassVar[bool] = True

    def __init__(self, images: ImageSources, settings: object, device: torch.device) -> None:
        self.images = images
        # Images of two folders may have the same name, so that each folder has a table of its own.
        self._tables = {part.others: read_table(part) for part in (images.train, images.val)}
        rows = [row for part in (images.train, images.val) for row in self._rows(part).values()]
        self.labels = tuple(sorted({label for row in rows for label in row.labels}))
        self.names_of_numbers = tuple(rows[0].numbers)
        if not 0 < len(self.labels) + len(self.names_of_numbers) <= MOST:
            found = f"{len(self.labels)} labels and {len(self.names_of_numbers)} numbers"
            raise DataError(f"{images.train.location}: {TABLE} has {found}", f"give 1 to {MOST} of them together")
        for part in (images.train, images.val):
            for name, row in self._rows(part).items():
                if row.numbers.keys() != {*self.names_of_numbers}:
                    first = f"{images.train.names[0]} has {_listed(self.names_of_numbers)}"
                    message = f"{part.location}: of numbers in {TABLE}, {name} has {_listed(row.numbers)}, and {first}"
                    raise DataError(message, f"give all images the same columns, in each {TABLE}")

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        return {INPUT: {"path": f"{self.images.as_input['path']}: {TABLE}", "fingerprint": self.fingerprint}}

    @property
    def fingerprint(self) -> str:
        """Return a sha256, hex, of what is said of all images."""
        train, val = self._rows(self.images.train), self._rows(self.images.val)
        rows = [*train.items(), *((name, row) for name, row in val.items() if row != train.get(name))]
        return sha256_json([[name, row.labels, dict(row.numbers)] for name, row in sorted(rows, key=itemgetter(0))])

    def conditioning(
        self, train: ImageSource, val: ImageSource, progress: Progress | None = None
    ) -> AttributeConditioning:
        numbers = []
        for name in self.names_of_numbers:
            values = np.array([row.numbers[name] for row in self._rows(train).values()], dtype=np.float64)
            low, high = float(values.min()), float(values.max())
            if low == high:
                message = f"{train.location}: {TABLE} has {name} {low:g} for all training images"
                raise DataError(message, "leave the column out")
            numbers.append(Number(name, low, high, float(values.mean())))
        return AttributeConditioning(self.labels, tuple(numbers))

    def names(self, conditioning: Conditioning) -> tuple[str, ...]:
        return (STORED,)

    def fields(self, conditioning: Conditioning, source: ImageSource) -> Callable[[Sequence[int]], list[Fields]]:
        assert isinstance(conditioning, AttributeConditioning)
        table = self._tables[source.others]
        return lambda indices: [({STORED: _stored(table[source.names[index]], conditioning)}, {}) for index in indices]

    def summary(self, conditioning: Conditioning, source: ImageSource) -> dict[str, str]:
        rows = self._rows(source).values()
        counts = [f"{label} {sum(label in row.labels for row in rows):,}" for label in self.labels]
        found = {"labels": listed(counts, 8)} if counts else {}
        return found | ({"numbers": ", ".join(self.names_of_numbers)} if self.names_of_numbers else {})

    def _rows(self, source: ImageSource) -> dict[str, Row]:
        """Return what is said of each image, by name. Raises DataError naming one of which nothing is."""
        table = self._tables[source.others]
        for name in source.names:
            if name not in table:
                raise DataError(f"{source.location}: {TABLE} does not say anything of {name}", "add a line for it")
        return {name: table[name] for name in source.names}


def asks_for_attributes(images: ImageSources, kind: str) -> bool:
    """Return whether images are to be conditioned on `labels.csv`: only where that was asked for."""
    return kind == ATTRIBUTES


def read_table(source: ImageSource) -> dict[str, Row]:
    """Read what `labels.csv` says, by the names of images, relative to the source as those are.

    Its header names the columns: the file (`file`, or `file_name`), `labels`, several with `;` between them, and
    numbers. Raises DataError naming the line, where there is no such file, or it is wrong.
    """
    found = sorted(name for name in source.others.names if PurePosixPath(name).name == TABLE) if source.others else []
    if not found:
        raise DataError(f"{source.location} has no {TABLE}", f"{_REMEDY}, or use `conditioning=labels`")
    table: dict[str, Row] = {}
    for name in found:
        assert source.others is not None
        place, folder = f"{source.location}: {name}", PurePosixPath(name).parent
        reader = csv.reader(io.StringIO(decoded(source.others.read(name), place), newline=""), strict=True)
        try:
            header = [column.strip() for column in next(reader, [])]
            file = next((at for at, column in enumerate(header) if column.lower() in _FILES), None)
            if file is None or len(set(header)) < len(header) or not all(map(_is_name, header)):
                raise DataError(f"{place} has the columns {', '.join(header)[:100]!r}", _REMEDY)
            for cells in filter(None, reader):
                line = f"{place}, line {reader.line_num}"
                if len(cells) != len(header):
                    raise DataError(f"{line} has {len(cells)} cells for {len(header)} columns", "mend the line")
                image = (folder / cells[file].strip()).as_posix()
                if image in table:
                    raise DataError(f"{line} is the second of {image}", "leave one out")
                table[image] = _row(dict(zip(header, cells, strict=True)), header[file], line)
        except csv.Error as error:
            raise DataError(f"{place}, line {reader.line_num} is not CSV: {error}", "mend the line") from None
    return table


def _row(cells: dict[str, str], file: str, line: str) -> Row:
    numbers: dict[str, float] = {}
    for column, cell in cells.items():
        if column not in (file, _LABELS):
            try:
                numbers[column] = float(cell)
            except ValueError:
                numbers[column] = math.nan
            if not math.isfinite(numbers[column]):
                raise DataError(f"{line}: {column} is {cell[:40]!r}, not a number", "give each image one, or no column")
    labels = tuple(dict.fromkeys(filter(None, (label.strip() for label in cells.get(_LABELS, "").split(";")))))
    for label in labels:
        if not _is_name(label) or "," in label:
            raise DataError(f"{line}: {label[:40]!r} is no name of a label", "use names without commas")
    return Row(labels, numbers)


def _is_name(text: str) -> bool:
    return bool(text) and len(text) <= _LONGEST and is_text(text) and "=" not in text and text.isprintable()


def _stored(row: Row, conditioning: AttributeConditioning) -> np.ndarray:
    """Return what is said of an image in the order of the conditioning; files may have their columns in another."""
    flags = [float(label in row.labels) for label in conditioning.labels]
    return np.array([*flags, *(row.numbers[number.name] for number in conditioning.numbers)], dtype=np.float32)


def _listed(numbers: Collection[str]) -> str:
    return listed([*numbers]) if numbers else "none"
