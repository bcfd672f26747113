"""`ldm sweep`: judgements of a run's samples at several guidance scales and step counts in, one comparison out."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core import files
from ..core.artifacts import Artifact, open_artifact
from ..core.data.grid import grid, scale_for
from ..core.data.images import decode, write_png
from ..core.lock import occupy
from ..core.progress import Outcome, Progress
from .configs.sweep import Sweep
from .handover import as_input, claim, command_line
from .judging import read_judgement

KIND, TABLE, CURVES, PICTURE = "sweep", "table.csv", "curves.png", "grid.png"
SHOWN_IMAGES = 10
SHOWN = ("frechet_distance", "fid", "class_accuracy", "precision", "recall")


@dataclass(frozen=True)
class Point:
    """One combination: its settings, and the folders of its samples and of their judgement."""

    cfg: float
    steps: int
    samples: Path
    judgement: Path


def compare(config: Sweep, points: Sequence[Point], progress: Progress) -> Outcome:
    """Write table, curves and a grid of the same seeds across all points. Returns where they lie."""
    folder = config.root / KIND
    with occupy(folder):
        judged = [open_artifact(point.judgement, "eval", command_line("eval", config)) for point in points]
        drawn = [open_artifact(point.samples, "samples", command_line("sample", config)) for point in points]
        inputs = {
            f"{role} at cfg {point.cfg:g}, {point.steps} steps": as_input(artifact, folder)
            for role, several in (("eval", judged), ("samples", drawn))
            for point, artifact in zip(points, several, strict=True)
        }
        work = claim(folder, KIND, config.model_copy(update={"replace": True}), inputs, kind=KIND)
        rows = [_row(point, artifact) for point, artifact in zip(points, judged, strict=True)]
        if not work.complete:
            files.write_bytes(folder / TABLE, _as_csv(rows).encode())
            _draw_curves(rows, folder / CURVES)
            _draw_grid(points, drawn, folder / PICTURE)
            work.commit([TABLE, CURVES, PICTURE], {"rows": rows})
    summary = {f"cfg {row['cfg']:g}, {row['steps']} steps": _told(row) for row in rows}
    pictures = [folder / CURVES, folder / PICTURE]
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=[command_line("report", config)])


def _row(point: Point, judgement: Artifact) -> dict[str, Any]:
    numbers = read_judgement(judgement.path)["numbers"]
    return {"cfg": point.cfg, "steps": point.steps, **numbers}


def _told(row: dict[str, Any]) -> str:
    """Choose what the command prints of a row."""
    chosen = {name: value for name, value in row.items() if name.partition("[")[0] in SHOWN}
    return "  ".join(f"{name} {value:.4g}" for name, value in chosen.items())


def _as_csv(rows: list[dict[str, Any]]) -> str:
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return buffer.getvalue()


def _draw_curves(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw each number over the guidance scale, a line for each number of steps; over steps where the scale is one."""
    from matplotlib.figure import Figure

    names = [name for name in rows[0] if name.partition("[")[0] in SHOWN]
    over, apart = ("cfg", "steps") if len({row["cfg"] for row in rows}) > 1 else ("steps", "cfg")
    figure = Figure(figsize=(4.2 * len(names), 3.4), layout="constrained")
    for axes, name in zip(np.atleast_1d(figure.subplots(1, len(names))), names, strict=True):
        for value in sorted({row[apart] for row in rows}):
            line = sorted((row[over], row[name]) for row in rows if row[apart] == value and name in row)
            label = f"{value} steps" if apart == "steps" else f"cfg {value:g}"
            axes.plot(*zip(*line, strict=True), marker="o", markersize=4, linewidth=1.4, label=label)
        axes.set(title=name, xlabel="guidance scale" if over == "cfg" else "steps")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    files.write_atomically(path, lambda temporary: figure.savefig(temporary, format="png", dpi=110))


def _draw_grid(points: Sequence[Point], drawn: list[Artifact], path: Path) -> None:
    """Draw a row of the same seeds for each point, spread over the classes."""
    names = [entry["file"] for entry in drawn[0].facts["images"]]
    chosen = [names[i] for i in np.unique(np.linspace(0, len(names) - 1, SHOWN_IMAGES).round().astype(int))]
    images = np.stack([decode((a.path / name).read_bytes(), str(a.path / name)) for a in drawn for name in chosen])
    labels = [f"cfg {point.cfg:g}, {point.steps} steps" for point in points]
    write_png(path, grid(images, columns=len(chosen), row_labels=labels, scale=scale_for(images)))
