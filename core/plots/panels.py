"""Lines in panels: what a plot shows, as data, and the one place that draws it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

# Okabe & Ito's colours, told apart with every kind of colour vision and in grey.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#7f7f7f")
BLACK, GREY = 6, 7
_DPI = 120
_STYLE = {
    "font.size": 11,
    "axes.titlesize": 12,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
}


@dataclass(frozen=True, eq=False)
class Line:
    """A curve: x and y of equal shape (N,); points that are not finite are left out. Lines without label are unnamed.

    colour: index into `COLOURS`; what is the same thing in several panels has the same one. style: matplotlib's. width:
    in points; a thinner line drawn after a wide one leaves both to be seen where they coincide.
    """

    label: str
    x: Tensor
    y: Tensor
    colour: int = 0
    style: str = "-"
    width: float = 1.8


@dataclass(frozen=True, eq=False)
class Panel:
    """A pair of axes with its lines. log: which axes are logarithmic, "", "y" or "xy". falling: time runs to 0."""

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    log: str = ""
    falling: bool = False


def draw(
    panels: Sequence[Panel], legend_per_panel: bool = False, width: float = 4.2, height: float = 3.4
) -> np.ndarray:
    """Draw panels side by side on white, uint8 (H, W, 3).

    The legend stands on the right and names each label once; with `legend_per_panel`, each panel has its own inside.
    width, height: of a panel, in inches of 120 pixels. Whatever style and backend the user has set, the picture is the
    same.
    """
    from matplotlib import style
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    with style.context(["default", _STYLE]):
        canvas = FigureCanvasAgg(lay_out(panels, legend_per_panel, width, height))
        canvas.draw()
        return np.array(canvas.buffer_rgba())[:, :, :3]


def lay_out(panels: Sequence[Panel], legend_per_panel: bool, width: float, height: float) -> Any:
    """Return the matplotlib Figure of `draw`, in whatever style is set."""
    from matplotlib.figure import Figure

    room = 0.0 if legend_per_panel else 1.6
    figure = Figure(figsize=(width * len(panels) + room, height), dpi=_DPI, layout="constrained")
    alike = len({(panel.y_range, panel.log) for panel in panels}) == 1 and panels[0].y_range is not None
    named: dict[str, Any] = {}
    for axes, panel in zip(figure.subplots(1, len(panels), sharey=alike, squeeze=False)[0], panels, strict=True):
        for line in panel.lines:
            drawn = _line(axes, line)
            if line.label:
                named.setdefault(line.label, drawn)
        axes.set(title=panel.title, xlabel=panel.x_label, ylabel=panel.y_label)
        if "x" in panel.log:
            axes.set_xscale("log")
        if "y" in panel.log:
            axes.set_yscale("log")
        if panel.x_range is not None:
            axes.set_xlim(panel.x_range)
        if panel.y_range is not None:
            axes.set_ylim(panel.y_range)
        if panel.falling:
            axes.invert_xaxis()
        if legend_per_panel:
            axes.legend()
    if not legend_per_panel:
        figure.legend(named.values(), named.keys(), loc="outside right center")
    return figure


def _line(axes: Any, line: Line) -> Any:
    look = {"color": COLOURS[line.colour], "linewidth": line.width, "label": line.label or "_unnamed"}
    (drawn,) = axes.plot(line.x.numpy(), line.y.numpy(), line.style, **look)
    return drawn
