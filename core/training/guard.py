"""The finite check before an optimizer step: a step with NaN or inf is skipped; too many of them end the training."""

import torch
from pydantic import BaseModel, ConfigDict

from ..errors import Diverged

LIMIT, WINDOW = 20, 100


class FiniteGuard(BaseModel):
    """Counts skipped steps. Raises Diverged at LIMIT skips within WINDOW steps.

    recent: indices of the steps skipped within the window. Its fields are its part of a checkpoint.
    """

    model_config = ConfigDict(strict=True)
    skipped: int = 0
    recent: list[int] = []

    def check(self, step_index: int, values: torch.Tensor) -> bool:
        """Return whether all values (loss, gradient norm) are finite; count the step as skipped when not."""
        if bool(torch.isfinite(values).all()):
            return True
        self.skipped += 1
        self.recent = [step for step in (*self.recent, step_index) if step > step_index - WINDOW]
        if len(self.recent) >= LIMIT:
            steps = min(WINDOW, step_index + 1)
            raise Diverged(
                f"training diverged: of the last {steps} steps {len(self.recent)} were not finite",
                "lower `train.lr`, or use `machine.precision=fp32`; no checkpoint with such numbers was written",
            )
        return False
