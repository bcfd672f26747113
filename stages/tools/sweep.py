"""`ldm sweep`: evaluations of a run's samples at several guidance scales and steps in, one comparison out."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core import files
from ...core.figures import Panel, draw
from ...core.images.decode import decode, write_png
from ...core.images.grid import grid, scale_for
from ...core.metrics.document import read_evaluation
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input, open_own
from ...core.runs.lock import occupy
from ...core.runs.outputs import claim, command_line
from ...core.runs.roles import EVALUATION, SAMPLES
from ...core.runs.run import StageRun
from ..configs.sweep import Sweep
from .reporting.charts import SETTINGS, over_setting
from .words import number, plain

KIND, TABLE, CURVES, PICTURE = "sweep", "table.csv", "curves.png", "grid.png"
SHOWN_IMAGES = 10
SHOWN = ("fid", "frechet_distance", "class_accuracy", "recall", "precision")


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and the folders of its samples and of their evaluation."""

    cfg: float
    steps: int
    samples: Path
    evaluation: Path


def compare(config: Sweep, points: Sequence[Point], progress: Progress) -> Outcome:
    """Write table, curves and a grid of the same seeds across all points. Returns their folder."""
    folder = config.root / KIND
    with occupy(folder):
        evaluated = [open_own(EVALUATION, config, point.evaluation) for point in points]
        drawn = [open_own(SAMPLES, config, point.samples) for point in points]
        inputs = {
            f"{role} at cfg {point.cfg:g}, {point.steps} steps": as_input(artifact, folder)
            for role, several in (("eval", evaluated), ("samples", drawn))
            for point, artifact in zip(points, several, strict=True)
        }
        work = claim(folder, config.model_copy(update={"replace": True}), inputs, progress)
        rows = [_row(point, artifact) for point, artifact in zip(points, evaluated, strict=True)]
        floor = read_evaluation(evaluated[0]).get("real_against_real", {})
        if not work.complete:
            files.write_bytes(folder / TABLE, _as_csv(rows).encode())
            write_png(folder / CURVES, _curves(rows, floor))
            _draw_grid(points, drawn, folder / PICTURE)
            work.commit([TABLE, CURVES, PICTURE], {"rows": rows})
    return Outcome(
        folder,
        summary={**_summary(rows, floor), "table": str(folder / TABLE)},
        facts={"rows": rows, "real_against_real": floor},
        pictures=[folder / CURVES, folder / PICTURE],
        next_commands=[command_line("report", config)],
    )


def _row(point: Point, evaluation: StageRun) -> dict[str, Any]:
    numbers = read_evaluation(evaluation)["numbers"]
    return {"cfg": point.cfg, "steps": point.steps, **numbers}


def _shown(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of numbers to report and draw, among those that the rows have."""
    known = dict.fromkeys(name for row in rows for name in row)
    return [name for shown in SHOWN for name in known if name.partition("[")[0] == shown]


def _summary(rows: Sequence[dict[str, Any]], floor: dict[str, float]) -> dict[str, str]:
    """Return the table that the command shows: a line for each row, with a header, real images last."""
    names = _shown(rows)
    lines = {f"cfg {row['cfg']:g}, {row['steps']} steps": row for row in rows}
    if any(name in floor for name in names):
        lines["real images"] = floor
    heads = [plain(name) for name in names]
    table = {"": "  ".join(heads)}
    for label, numbers in lines.items():
        cells = [number(numbers, name) for name in names]
        table[label] = "  ".join(cell.rjust(len(head)) for cell, head in zip(cells, heads, strict=True)).rstrip()
    return table


def _as_csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _curves(rows: Sequence[dict[str, Any]], floor: dict[str, float]) -> np.ndarray:
    """Draw each number over the guidance scale, a line for each number of steps, and over steps, one for each scale.

    A setting that has one value only is not an axis. Dashed: real images in place of the samples.
    """
    names = _shown(rows)
    chosen = [setting for setting in SETTINGS if len({row[setting] for row in rows}) > 1] or ["cfg"]
    panels = [
        Panel(plain(name), SETTINGS[over][0], "", over_setting(rows, over, name, floor))
        for over in chosen
        for name in names
    ]
    return draw(panels or [Panel("", "", "", [])], "beside", columns=max(len(names), 1))


def _draw_grid(points: Sequence[Point], drawn: list[StageRun], path: Path) -> None:
    """Draw a row of the same seeds for each point, spread over the classes."""
    names = [entry["file"] for entry in drawn[0].metadata["images"]]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, SHOWN_IMAGES).round().astype(int))]
    paths = [run.file(name) for run in drawn for name in chosen]
    images = np.stack([decode(files.read_plain(path), str(path)) for path in paths])
    labels = [f"cfg {point.cfg:g}, {point.steps} steps" for point in points]
    write_png(path, grid(images, columns=len(chosen), row_labels=labels, scale=scale_for(images)))
