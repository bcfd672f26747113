"""How fast a piece of work goes and how long it will take, in numbers and in words."""

import time
from collections import deque
from collections.abc import Callable

from ..core.progress import number_of
from ..core.system import machine

_WINDOW = 30.0  # seconds over which speed is measured, so that a slow start is soon forgotten


class Pace:
    """Follows one piece of work of `total` units, `done` of which were there at the start."""

    def __init__(
        self, title: str, total: int, unit: str, done: int = 0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.first = self.done = done
        self.numbers: dict[str, float] = {}
        self._noted: dict[str, int] = {}  # how much was done when each of them was new
        self._clock = clock
        self._start = clock()
        self._marks: deque[tuple[float, int]] = deque([(self._start, done)])

    def update(self, done: int, numbers: dict[str, float]) -> None:
        """Note that `done` units are finished now."""
        now = self._clock()
        self.done = done
        self.numbers.update(numbers)
        self._noted.update(dict.fromkeys(numbers, done))
        self._marks.append((now, done))
        while len(self._marks) > 2 and self._marks[1][0] < now - _WINDOW:
            self._marks.popleft()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @property
    def rate(self) -> float | None:
        """Units per second of late; None before there is anything to measure."""
        (then, before), (now, after) = self._marks[0], self._marks[-1]
        return (after - before) / (now - then) if now > then and after > before else None

    @property
    def mean_rate(self) -> float | None:
        """Units per second since the start."""
        return (self.done - self.first) / self.elapsed if self.elapsed > 0 and self.done > self.first else None

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the end at the present rate."""
        return max(0, self.total - self.done) / self.rate if self.rate else None

    def counted(self, count: int) -> str:
        """Write a number of units: 1 image, 2,000 images."""
        return number_of(count, self.unit.removesuffix("s"))

    def speed(self, rate: float | None) -> str:
        """Return a rate in words, `312 images/s`."""
        return f"{brief(rate)} {self.unit}/s" if rate else ""

    def each_reading(self) -> list[str]:
        """Return the current numbers in words, the loss first: `loss 0.123`, `psnr 24.1 at 64,000` for an older one."""
        names = sorted(self.numbers, key=lambda name: name != "loss")
        newest = max(self._noted.values(), default=0)
        ages = {name: f" at {done:,}" for name, done in self._noted.items() if done < newest}
        return [f"{name} {self.numbers[name]:.4g}{ages.get(name, '')}" for name in names]

    def readings(self) -> str:
        """Return the current numbers in words, `loss 0.123  psnr 24.1`."""
        return "  ".join(self.each_reading())


def memory() -> str:
    """Return in words what this process holds of memory, `memory 1.2 GB`, and of that of GPUs, where it uses any."""
    held = (("memory", machine.used_memory()), ("GPU", machine.used_gpu_memory()))
    return "  ".join(f"{name} {size / 1e9:.1f} GB" for name, size in held if size is not None)


def brief(value: float) -> str:
    """Write a number with about three digits: 12,800, 312, 4.07."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
