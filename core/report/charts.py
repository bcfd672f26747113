"""Line charts as SVG that takes the page's own ink, so that they are read in light, in dark and in print."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..data.grid import drawable

_INK = "#000000"
_COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#64748b")  # seen on white and on black


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y); `dots` marks each."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False


def line_chart(series: Sequence[Series], x_label: str, y_label: str, log: bool = False) -> str:
    """Draw series over one pair of axes. Returns an `<svg>` element without fixed size, ink in `currentColor`.

    log: a logarithmic vertical axis, where all values are positive.
    """
    import matplotlib
    from matplotlib.figure import Figure

    looks: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "ldm", "font.size": 9, "text.parse_math": False}
    with matplotlib.rc_context(looks):
        figure = Figure(figsize=(6, 3), layout="constrained")
        axes = figure.subplots()
        for number, line in enumerate(series):
            x, y = zip(*line.points, strict=True)
            marker = "o" if line.dots or len(line.points) == 1 else None
            axes.plot(
                x,
                y,
                label=drawable(line.name),
                color=_COLOURS[number % len(_COLOURS)],
                linewidth=1.4,
                marker=marker,
                markersize=4,
            )
        axes.set(xlabel=drawable(x_label), ylabel=drawable(y_label))
        if log and all(y > 0 for line in series for _, y in line.points):
            axes.set_yscale("log")
            for ticks in (axes.yaxis.set_major_formatter, axes.yaxis.set_minor_formatter):
                ticks(lambda value, _: f"{value:g}")
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(buffer.getvalue(), f"{y_label} over {x_label}")


def _inlined(svg: str, title: str) -> str:
    """Keep the `<svg>` element: its size left to the page, its black to `currentColor`, its ids apart from others'."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Text without a fill of its own is black to browsers.
    svg = re.sub(r'(<text style=")', r"\1fill: currentColor; ", svg)
    return svg
