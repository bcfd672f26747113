"""What a stage costs, and several of them as a table."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

GB = 1e9
_UNITS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


@dataclass(frozen=True)
class StageCost:
    """What one stage costs; None is not known, or means nothing there.

    images: that go through the network, repeats counted. batch: at once, over all GPUs. operations: of one image, and
    in_all of the stage, with validations and previews. memory: bytes of a process, by what they are for; `recomputing`
    is the most there is with activations recomputed. disk: bytes written. rate: images a second, over all GPUs.
    limit: what holds the rate down on a GPU that is not at hand, `launches` or `arithmetic`.
    """

    stage: str
    images: int | None = None
    batch: int | None = None
    parameters: int | None = None
    operations: int | None = None
    in_all: float | None = None
    memory: dict[str, int] = field(default_factory=dict)
    disk: int | None = None
    rate: float | None = None
    limit: str | None = None
    seconds: float | None = None


def amount(value: float) -> str:
    """Write a number with three digits and a letter for its thousands: 0, 999, 12.3 k, 712 G."""
    for size, letter in _UNITS:
        if value >= 0.9995 * size:
            return f"{value / size:.3g} {letter}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Write how long something takes: 8.2 s, 12 min, 3.4 h, 5.1 days."""
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    for size, unit in ((60, "min"), (3600, "h"), (86400, "days")):
        if seconds < {"min": 5400, "h": 172800}.get(unit, float("inf")):
            return f"{seconds / size:.2g} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    raise AssertionError("days have no end")


def _bytes(value: float) -> str:
    return f"{amount(value)}B"


_ROWS: list[tuple[str, Callable[[StageCost], Any], Callable[[Any], str]]] = [
    ("images", lambda c: c.images, lambda n: f"{n:,}"),
    ("at once", lambda c: c.batch, str),
    ("parameters", lambda c: c.parameters, amount),
    ("FLOP an image", lambda c: c.operations, amount),
    ("FLOP in all", lambda c: c.in_all, amount),
    ("weights", lambda c: c.memory.get("weights"), _bytes),
    ("gradients", lambda c: c.memory.get("gradients"), _bytes),
    ("optimizer", lambda c: c.memory.get("moments"), _bytes),
    ("EMA", lambda c: c.memory.get("average"), _bytes),
    ("activations", lambda c: c.memory.get("activations"), _bytes),
    ("memory at most", lambda c: c.memory.get("together"), _bytes),
    ("… checkpointing", lambda c: c.memory.get("recomputing"), _bytes),
    ("on the disk", lambda c: c.disk, _bytes),
    ("images/s", lambda c: c.rate, lambda r: f"{r:,.0f}" if r >= 10 else f"{r:.2g}"),
    ("limited by", lambda c: c.limit, str),
    ("time", lambda c: c.seconds, duration),
]


def table(costs: Iterable[StageCost]) -> dict[str, str]:
    """Lay costs out: a row for each quantity that any stage has, a column for each stage, aligned."""
    chosen = list(costs)
    columns = {"stage": [cost.stage for cost in chosen]}
    for name, of, write in _ROWS:
        cells = ["" if (value := of(cost)) is None else write(value) for cost in chosen]
        if any(cells):
            columns[name] = cells
    widths = [max(len(cells[number]) for cells in columns.values()) for number in range(len(chosen))]
    return {
        name: "  ".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))
        for name, cells in columns.items()
    }
