"""The finite check before an optimizer step: a step with NaN or inf is skipped; too many of them end the training."""

from collections import deque
from typing import Any

import torch

from ..errors import Diverged


class FiniteGuard:
    """Counts skipped steps. Raises Diverged at `limit` skips within `window` steps."""

    def __init__(self, limit: int = 20, window: int = 100) -> None:
        self.limit, self.window = limit, window
        self.skipped = 0
        self._recent: deque[int] = deque()  # indices of the steps skipped within the window

    def check(self, step_index: int, values: torch.Tensor) -> bool:
        """Return whether all values (loss, gradient norm) are finite; count the step as skipped when not."""
        if bool(torch.isfinite(values).all()):
            return True
        self.skipped += 1
        self._recent.append(step_index)
        while self._recent[0] <= step_index - self.window:
            self._recent.popleft()
        if len(self._recent) >= self.limit:
            found = len(self._recent)
            raise Diverged(
                f"training diverged: of the {self.window} steps up to {step_index}, {found} were not finite",
                "lower --lr, or use --precision fp32; the last checkpoint is finite",
            )
        return False

    def state(self) -> dict[str, Any]:
        """Return its part of a checkpoint, JSON."""
        return {"skipped": self.skipped, "recent": list(self._recent)}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from its part of a checkpoint."""
        self.skipped, self._recent = state["skipped"], deque(state["recent"])
