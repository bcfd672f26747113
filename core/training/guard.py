"""The one finite check before an optimizer step: a step with NaN or inf is skipped, too many end the training."""

from collections import deque

import torch

from ..errors import Diverged


class FiniteGuard:
    """Counts skipped steps. Raises Diverged at `limit` skips within `window` steps."""

    def __init__(self, limit: int = 20, window: int = 100) -> None:
        self.limit, self.window = limit, window
        self.skipped = 0
        self._recent: deque[int] = deque()

    def admit(self, step: int, *values: torch.Tensor) -> bool:
        """Return whether all values (losses, gradient norms) are finite; count the step as skipped when not."""
        if all(bool(torch.isfinite(value).all()) for value in values):
            return True
        self.skipped += 1
        self._recent.append(step)
        while self._recent[0] <= step - self.window:
            self._recent.popleft()
        if len(self._recent) >= self.limit:
            raise Diverged(
                f"training diverged: of the {self.window} steps up to {step}, {len(self._recent)} were not finite",
                "lower --lr, or use --precision fp32; the last checkpoint is finite",
            )
        return False

    def state(self) -> dict[str, object]:
        """Return what a checkpoint keeps, JSON."""
        return {"skipped": self.skipped, "recent": list(self._recent)}

    def load(self, state: dict[str, object]) -> None:
        """Take up what a checkpoint kept."""
        recent = state["recent"]
        assert isinstance(state["skipped"], int) and isinstance(recent, list), f"guard state {state}"
        self.skipped = state["skipped"]
        self._recent = deque(int(step) for step in recent)
