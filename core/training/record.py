"""The numbers of a training run: `metrics.jsonl`, one line per interval, every step in exactly one of them."""

import csv
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .. import files
from ..figures import Panel, draw, line
from ..images.decode import write_png
from ..runs.metrics_log import METRICS, read

TABLE = "results.csv"


class Meter(BaseModel):
    """Means over the steps since the last line. Its fields are its part of a checkpoint: a resumed line is the same."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    sums: dict[str, float] = {}
    counts: dict[str, Annotated[int, Field(ge=1)]] = {}

    @model_validator(mode="after")
    def _same_names(self) -> "Meter":
        if self.sums.keys() != self.counts.keys():
            raise ValueError("its sums and counts have different names")
        return self

    def add(self, numbers: dict[str, float]) -> None:
        """Add the numbers of one step; each mean is over the steps with a finite number of that name."""
        for name, value in numbers.items():
            if math.isfinite(value):
                self.sums[name] = self.sums.get(name, 0.0) + value
                self.counts[name] = self.counts.get(name, 0) + 1

    def flush(self) -> dict[str, float]:
        """Return the means and start over."""
        means = {name: total / self.counts[name] for name, total in self.sums.items()}
        self.sums, self.counts = {}, {}
        return means


class MetricsLog:
    """Appends lines to `metrics.jsonl`, after dropping those of more than `images` images: they will be written again.

    drop: drops the lines at exactly `images` that hold this key, too.
    """

    def __init__(
        self,
        folder: Path,
        images: int,
        mirror: Callable[[dict[str, Any]], None] | None = None,
        drop: str | None = None,
    ) -> None:
        self.path = folder / METRICS
        self.mirror = mirror
        kept = [
            line
            for line in read(self.path)
            if line["images"] < images or (line["images"] == images and drop not in line)
        ]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        files.write_bytes(self.path, text.encode())

    def add(self, line: dict[str, Any]) -> None:
        """Append a line; numbers that are not finite are left out, which `skipped` counts."""
        finite = {key: value for key, value in line.items() if not isinstance(value, float) or math.isfinite(value)}
        with files.saying_disk_full(self.path), self.path.open("a") as file:
            file.write(json.dumps(finite) + "\n")
        if self.mirror is not None:
            self.mirror(finite)


def write_curves(folder: Path) -> Path:
    """Draw the losses of `metrics.jsonl` over images seen as `loss.png`. Returns its path."""
    lines, curves = read(folder / METRICS), []
    for colour, (name, label) in enumerate((("loss", "loss"), ("val_loss", "validation loss"))):
        if points := [(each["images"], each[name]) for each in lines if name in each]:
            curves.append(line(label, points, colour))
    write_png(folder / "loss.png", draw([Panel("", "images seen", "loss", curves, log="y")], "inside", 8, 4.5))
    return folder / "loss.png"


def write_table(folder: Path) -> Path:
    """Write the numbers of `metrics.jsonl` as `results.csv`: what was logged after the same images is one line.

    A number that is missing there is an empty cell. Returns its path.
    """
    rows: dict[int, dict[str, Any]] = {}
    for each in read(folder / METRICS):
        numbers = {name: value for name, value in each.items() if not isinstance(value, dict)}
        rows.setdefault(each["images"], {}).update(numbers)
    names = dict.fromkeys(name for row in rows.values() for name in row)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=[*names], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[images] for images in sorted(rows))
    files.write_bytes(folder / TABLE, text.getvalue().encode())
    return folder / TABLE
