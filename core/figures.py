"""Figures of numbers: lines in panels and matrices, as pixels, or as SVG in the page's own ink.

What is shown is data, `Line` and `Panel`; only this module draws it. Pictures of images are in `images.grid`.
"""

import html
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .images.grid import drawable, shorter

# Okabe & Ito's colours, distinct with every kind of colour vision and in grey, and the ink of text.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
BLACK, GREY, INK = 6, 7, -1
_ON_ANY_PAPER = ("#3b82f6", "#f97316", "#10b981", "#a855f7", "#ef4444", "#64748b")  # seen on white and on black
_INK = "#000000"
_DPI = 120
_FEW_TICKS, _FEW_LINES, _LONGEST_NAME = 8, 4, 24
_MARGINS = 0.95, 0.2, 0.6, 0.4  # in inches: left, right, bottom, and top of a panel with a title
_SHORT_LOG = 100  # of a logarithmic axis: its largest value over its smallest
_STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}
_SVG_STYLE = {"font.size": 10.5, "svg.fonttype": "none", "svg.hashsalt": "ldm", "text.parse_math": False}
Legend = Literal["right", "inside", "beside"]


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: x and y of equal shape (N,); points that are not finite are left out. Lines without label are unnamed.

    colour: index into `COLOURS`, or INK; the same thing in several panels has the same one. style:
    matplotlib's, "o-" marks each point. width: in points; a thinner line drawn over a wide one leaves both visible.
    """

    label: str
    x: Any
    y: Any
    colour: int = 0
    style: str = "-"
    width: float = 1.8


@dataclass(frozen=True, eq=False)
class Panel:
    """A pair of axes with its lines. log: which axes are logarithmic, "", "y" or "xy". falling: time runs to 0.

    Without `y_range`, the y axis is logarithmic only where all values are positive.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log: str = ""
    falling: bool = False


def line(label: str, points: Iterable[tuple[float, float]], colour: int = 0, marked: bool = False) -> Line:
    """Return the line through points (x, y)."""
    x, y = zip(*points, strict=True)
    return Line(label, x, y, colour, "o-" if marked or len(x) == 1 else "-", 1.4)


def level(label: str, y: float, x: Sequence[float]) -> Line:
    """Return a dashed horizontal line over the range of x: what other lines are compared with."""
    return Line(label, (min(x), max(x)), (y, y), INK, "--", 1.4)


def draw(
    panels: Sequence[Panel],
    legend: Legend = "right",
    width: float = 4.2,
    height: float = 3.4,
    columns: int | None = None,
) -> np.ndarray:
    """Draw panels side by side on white, or in rows of so many columns, uint8 (H, W, 3).

    legend: one on the right that names each label once, or each panel's own, inside or beside its axes. width, height:
    of a panel, in inches of 120 pixels. Whatever style and backend the user has set, the picture is the same.
    """
    from matplotlib import style

    with style.context(["default", _STYLE]):
        return _pixels(lay_out(panels, legend, width, height, columns))


def lay_out(panels: Sequence[Panel], legend: Legend, width: float, height: float, columns: int | None = None) -> Any:
    """Return the matplotlib Figure of `draw`, in whatever style is set."""
    from matplotlib.figure import Figure

    columns = columns or len(panels)
    rows = -(-len(panels) // columns)
    room = 1.6 if legend == "right" else 0.0
    figure = Figure(figsize=(width * columns + room, height * rows), dpi=_DPI)
    _leave_margins(figure, panels, legend)
    alike = len({(panel.y_range, panel.log) for panel in panels}) == 1 and panels[0].y_range is not None
    named: dict[str, Any] = {}
    axes = figure.subplots(rows, columns, sharey=alike, squeeze=False).flat
    for each, panel in zip(axes, panels, strict=False):
        named = _fill(each, panel, COLOURS, None if legend == "right" else legend) | named
    if legend == "right":
        figure.legend(named.values(), named.keys(), loc="outside right center")
    return figure


def _leave_margins(figure: Any, panels: Sequence[Panel], legend: Legend) -> None:
    """Leave room for titles and ticks around a single panel; elsewhere matplotlib measures it, at twice the time."""
    if len(panels) > 1 or legend != "inside":
        figure.set_layout_engine("constrained")
        return
    (width, height), (left, right, bottom, top) = figure.get_size_inches(), _MARGINS
    top = top if panels[0].title else right
    figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)


def svg(panel: Panel) -> str:
    """Draw a panel as an `<svg>` element without fixed size, ink in `currentColor`: for light, dark and print."""
    from matplotlib import style
    from matplotlib.figure import Figure

    with style.context(["default", _STYLE, _SVG_STYLE]):
        figure = Figure(figsize=(6, 3))
        legend: Legend = "beside" if len(panel.lines) > _FEW_LINES else "inside"
        _leave_margins(figure, [panel], legend)
        _fill(figure.subplots(), panel, _ON_ANY_PAPER, legend if len(panel.lines) > 1 else None)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(buffer.getvalue(), f"{panel.y_label} over {panel.x_label}")


def matrices(shares: Mapping[str, np.ndarray], names: Sequence[str], x_label: str, y_label: str) -> np.ndarray:
    """Draw matrices of shares in [0, 1], (K, K), side by side under their titles, uint8 (H, W, 3).

    names: of the rows and columns of each.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    side = min(12.0, 2.5 + 0.45 * len(names))
    with style.context("default"):
        figure = Figure(figsize=(side * len(shares), side), dpi=_DPI, layout="constrained")
        side_by_side = figure.subplots(1, len(shares), squeeze=False).flat
        for axes, (title, each) in zip(side_by_side, shares.items(), strict=True):
            axes.set(title=title)
            _fill_matrix(axes, each, names, x_label, y_label)
        return _pixels(figure)


def _fill_matrix(axes: Any, shares: np.ndarray, names: Sequence[str], x_label: str, y_label: str) -> None:
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set(xlabel=x_label, ylabel=y_label)
    if len(names) <= 30:
        shown = [shorter(drawable(name), _LONGEST_NAME) for name in names]
        axes.set_xticks(range(len(names)), shown, rotation=45, ha="right", parse_math=False)  # "$5" is text.
        axes.set_yticks(range(len(names)), shown, parse_math=False)
    if len(names) <= 12:
        for (row, column), share in np.ndenumerate(shares):
            if share:
                ink = "white" if share > 0.5 else "black"
                axes.text(column, row, f"{share:.0%}", ha="center", va="center", color=ink, fontsize=7)


def _fill(axes: Any, panel: Panel, colours: Sequence[str], legend: Legend | None) -> dict[str, Any]:
    """Draw a panel on matplotlib axes. Returns the legend's handle for each label."""
    from matplotlib.ticker import LogLocator

    named: dict[str, Any] = {}
    for each in panel.lines:
        colour = _INK if each.colour == INK else colours[each.colour % len(colours)]
        label = drawable(each.label) or "_unnamed"
        look = {"color": colour, "linewidth": each.width, "markersize": 4 if each.width < 1.5 else 6, "label": label}
        (drawn,) = axes.plot(np.asarray(each.x), np.asarray(each.y), each.style, **look)
        if each.label:
            named.setdefault(label, drawn)
    axes.set(title=panel.title, xlabel=drawable(panel.x_label), ylabel=drawable(panel.y_label))

    # Axes: logarithms, ranges, and ticks that are brief.
    if "x" in panel.log:
        axes.set_xscale("log")
        _name_log_x(axes, panel)
    elif panel.lines:
        _name_x(axes, panel)
    if "y" in panel.log and panel.y_range is not None:
        axes.set_yscale("log")
    elif "y" in panel.log and all(np.all(np.asarray(each.y) > 0) for each in panel.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.minorticks_off()
    if panel.x_range is not None:
        axes.set_xlim(panel.x_range)
    if panel.y_range is not None:
        axes.set_ylim(panel.y_range)
    if panel.falling:
        axes.invert_xaxis()
    if legend is not None and named:
        axes.legend(**({"loc": "upper left", "bbox_to_anchor": (1.0, 1.0)} if legend == "beside" else {}))
    return named


def _name_x(axes: Any, panel: Panel) -> None:
    """Let few marked points be the ticks of the x axis, and write large numbers briefly."""
    largest = max(float(np.max(np.asarray(each.x))) for each in panel.lines)
    marked = sorted({float(x) for each in panel.lines if "o" in each.style for x in each.x})
    if 1 < len(marked) <= _FEW_TICKS and largest < 1000 and all(each.style in ("o-", "--") for each in panel.lines):
        axes.set_xticks(marked)
        axes.xaxis.set_major_formatter(lambda value, _: _brief(value))
    elif largest >= 1000:
        axes.xaxis.set_major_formatter(lambda value, _: _brief(value))


def _name_log_x(axes: Any, panel: Panel) -> None:
    """Name more than powers of ten on a short logarithmic axis, without the names of other ticks, which overlap."""
    from matplotlib.ticker import LogLocator

    values = [float(x) for each in panel.lines for x in each.x]
    if values and min(values) > 0 and max(values) < _SHORT_LOG * min(values):
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.minorticks_off()


def _brief(value: float) -> str:
    """Write a number on an axis: 0.5, 3, 2k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{letter}"
    return f"{value:g}"


def _pixels(figure: Any) -> np.ndarray:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


def _inlined(text: str, title: str) -> str:
    """Keep the `<svg>` element: its size left to the page, its black to `currentColor`, its ids apart from others'."""
    text = text[text.index("<svg") :]
    text = re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)
    text = text.replace(_INK, "currentColor").replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    # Text without a fill of its own is black to browsers.
    return re.sub(r'(<text style=")', r"\1fill: currentColor; ", text)
