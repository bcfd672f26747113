"""Line charts as SVG that takes the page's own ink, so that they are read in light, in dark and in print."""

import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ....core.images.grid import drawable

_INK = "#000000"
_FEW = 8  # points that are ticks of the axis themselves
_BESIDE = 4  # lines of which more have their names beside the axes, where they hide nothing
_COLOURS = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#64748b")  # seen on white and on black


@dataclass(frozen=True)
class Series:
    """A named line through points (x, y). dots: mark each point; dashed: for what the others are compared with."""

    name: str
    points: Sequence[tuple[float, float]]
    dots: bool = False
    dashed: bool = False


def line_chart(series: Sequence[Series], x_label: str, y_label: str, log: bool = False) -> str:
    """Draw series over one pair of axes. Returns an `<svg>` element without fixed size, ink in `currentColor`.

    log: a logarithmic vertical axis, where all values are positive.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    looks: dict[Any, Any] = {"svg.fonttype": "none", "svg.hashsalt": "ldm", "font.size": 10.5, "text.parse_math": False}
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
                color=_INK if line.dashed else _COLOURS[number % len(_COLOURS)],
                alpha=0.6 if line.dashed else 1.0,
                linewidth=1.4,
                linestyle="--" if line.dashed else "-",
                marker=marker,
                markersize=4,
            )
        axes.set(xlabel=drawable(x_label), ylabel=drawable(y_label))
        marked = sorted({x for line in series if line.dots for x, _ in line.points})
        if 1 < len(marked) <= _FEW and marked[-1] < 1000 and all(line.dots or line.dashed for line in series):
            axes.set_xticks(marked)
        axes.xaxis.set_major_formatter(lambda value, _: _brief(value))
        if log and all(y > 0 for line in series for _, y in line.points):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if len(series) > 1:
            beside: dict[str, Any] = (
                {"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if len(series) > _BESIDE else {}
            )
            axes.legend(frameon=False, **beside)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(buffer.getvalue(), f"{y_label} over {x_label}")


def _brief(value: float) -> str:
    """Write a number on an axis: 0.5, 3, 2k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _inlined(svg: str, title: str) -> str:
    """Keep the `<svg>` element: its size left to the page, its black to `currentColor`, its ids apart from others'."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Text without a fill of its own is black to browsers.
    svg = re.sub(r'(<text style=")', r"\1fill: currentColor; ", svg)
    return svg
