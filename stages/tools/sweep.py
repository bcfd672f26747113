"""`ldm sweep`: evaluations of samples that were drawn in several ways in, one comparison out."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...core import files
from ...core.figures import Line, Panel, draw, line
from ...core.images.decode import decode, write_png
from ...core.images.grid import grid, scale_for
from ...core.metrics.document import read_evaluation
from ...core.progress import Outcome, Progress, number_of
from ...core.runs.inputs import as_input, open_own
from ...core.runs.lock import occupy
from ...core.runs.outputs import claim, command_line
from ...core.runs.roles import EVALUATION, SAMPLES
from ...core.runs.run import StageRun
from ..configs.sweep import Sweep
from .reporting.charts import SETTINGS, of_reals, over_setting
from .summary import images_per_second
from .words import number, plain

KIND, TABLE, CURVES, COSTS, PICTURE = "sweep", "table.csv", "curves.png", "costs.png", "grid.png"
SHOWN_IMAGES = 10
SHOWN = ("overall", "colour_attribution", "fid", "frechet_distance", "class_accuracy", "recall", "precision")
OVER_COST = ("fid", "frechet_distance", "class_accuracy")
COST = {"evaluations": "network evaluations an image", "seconds": "seconds an image"}


@dataclass(frozen=True)
class Point:
    """One way of drawing: by a sampler or a student, and the folders of its samples and of their evaluation.

    evaluations: of the network, for an image; a guided pass is two.
    """

    by: str
    cfg: float
    steps: int
    evaluations: int
    samples: Path
    evaluation: Path


def in_words(by: str, cfg: float, steps: int) -> str:
    """Write how images were drawn. by: empty is left out."""
    return ", ".join(filter(None, (by, f"cfg {cfg:g}", number_of(steps, "step"))))


def compare(config: Sweep, points: Sequence[Point], progress: Progress) -> Outcome:
    """Write table, curves and a grid of the same seeds across all points. Returns their folder."""
    folder, names = config.root / KIND, _names(points)
    with occupy(folder):
        evaluated = [open_own(EVALUATION, config, point.evaluation) for point in points]
        drawn = [open_own(SAMPLES, config, point.samples) for point in points]
        inputs = {
            f"{role} at {name}": as_input(artifact, folder)
            for role, several in (("eval", evaluated), ("samples", drawn))
            for name, artifact in zip(names, several, strict=True)
        }
        work = claim(folder, config.model_copy(update={"replace": True}), inputs, progress)
        rows = [_row(*each) for each in zip(points, drawn, evaluated, strict=True)]
        floor = read_evaluation(evaluated[0]).get("real_against_real", {})
        if not work.complete:
            files.write_bytes(folder / TABLE, _as_csv(rows).encode())
            pictures = {CURVES: _curves(rows, floor), COSTS: _over_cost(rows, floor)}
            for name, picture in pictures.items():
                write_png(folder / name, picture)
            _draw_grid(names, drawn, folder / PICTURE)
            work.commit([TABLE, *pictures, PICTURE], {"rows": rows})
    return Outcome(
        folder,
        summary={**_summary(names, rows, floor), "table": str(folder / TABLE)},
        facts={"rows": rows, "real_against_real": floor},
        pictures=[folder / CURVES, folder / COSTS, folder / PICTURE],
        next_commands=[command_line("report", config)],
    )


def _names(points: Sequence[Point]) -> list[str]:
    """Return how each was drawn; by what only where that differs."""
    several = len({point.by for point in points}) > 1
    return [in_words(point.by if several else "", point.cfg, point.steps) for point in points]


def _row(point: Point, drawn: StageRun, evaluation: StageRun) -> dict[str, Any]:
    rate = images_per_second(drawn)
    return {
        **{name: getattr(point, name) for name in ("by", "cfg", "steps", "evaluations")},
        "seconds": 1 / rate if rate else None,
        **read_evaluation(evaluation)["numbers"],
    }


def shown_numbers(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Return the names of numbers to report and draw, among those that the rows have.

    Accuracy among the data's classes stands beside that among all of an extractor's own.
    """
    known = {name: name.partition("[")[0].partition("_among_")[0] for row in rows for name in row}
    return [name for shown in SHOWN for name, base in known.items() if base == shown]


def _summary(titles: Sequence[str], rows: Sequence[dict[str, Any]], floor: dict[str, float]) -> dict[str, str]:
    """Return the table that the command shows: a line for each row, with a header, real images last.

    What images cost stands there where it was drawn by several samplers, or by students.
    """
    names = shown_numbers(rows)
    if len({row["by"] for row in rows}) > 1:
        names = [*names, *(cost for cost in COST if any(row[cost] is not None for row in rows))]
    lines = dict(zip(titles, rows, strict=True))
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

    Each for what drew them, where that differs. A setting that has one value only is not an axis. Dashed: real images
    in place of the samples.
    """
    names = shown_numbers(rows)
    if len({row["by"] for row in rows}) == 1:
        rows = [{**row, "by": ""} for row in rows]
    chosen = [setting for setting in SETTINGS if len({row[setting] for row in rows}) > 1] or ["cfg"]
    panels = [
        Panel(plain(name), SETTINGS[over][0], "", over_setting(rows, over, name, floor))
        for over in chosen
        for name in names
    ]
    return draw(panels or [Panel("", "", "", [])], "beside", columns=max(len(names), 1))


def _over_cost(rows: Sequence[dict[str, Any]], floor: dict[str, float]) -> np.ndarray:
    """Draw distance and class accuracy over network evaluations and over seconds, a line for each sampler and scale."""
    names = [name for name in shown_numbers(rows) if name.partition("[")[0] in OVER_COST]
    ways = [*dict.fromkeys((row["by"], row["cfg"]) for row in rows)]
    panels = []
    for cost, label in COST.items():
        for name in names:
            lines: list[Line] = []
            for colour, way in enumerate(ways):
                of_way = [row for row in rows if (row["by"], row["cfg"]) == way and name in row and row[cost]]
                if of_way:
                    points = sorted((row[cost], row[name]) for row in of_way)
                    lines.append(line(f"{way[0]}, cfg {way[1]:g}", points, colour, marked=True))
            log = "x" if name.startswith("class_accuracy") else "xy"
            panels.append(Panel(plain(name), label, "", [*lines, *of_reals(floor, name, lines)], log=log))
    return draw(panels or [Panel("", "", "", [])], "beside", columns=max(len(names), 1))


def _draw_grid(titles: Sequence[str], drawn: list[StageRun], path: Path) -> None:
    """Draw a row of the same seeds for each point, spread over the classes."""
    names = [entry["file"] for entry in drawn[0].metadata["images"]]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, SHOWN_IMAGES).round().astype(int))]
    paths = [run.file(name) for run in drawn for name in chosen]
    images = np.stack([decode(files.read_plain(path), str(path)) for path in paths])
    write_png(path, grid(images, columns=len(chosen), row_labels=[*titles], scale=scale_for(images)))
