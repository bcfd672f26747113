"""The EMA of a network's weights, which is what gets sampled."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import DataError

BATCH_NORM_STATISTICS = ("running_mean", "running_var")  # which are copied, as they average already


def decays(decay: float, start: int, stop: int) -> np.ndarray:
    """Return d of the updates from `start` up to `stop`, as `EMA` has it, float64."""
    n = np.arange(start, stop)
    return np.minimum(decay, (1 + n) / (10 + n))


class EMA:
    """average ← d · average + (1 − d) · weight for everything in a module's state_dict, in fp32.

    With d = min(decay, (1 + n) / (10 + n)) at the n-th update (n from 0), so that short runs forget their first
    weights; decay 0 follows the weights exactly. Integers and the statistics of BatchNorm, which average already, are
    copied. It keeps references to the module's tensors: move it to its device before, and load weights in place.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        assert 0 <= decay < 1, f"decay {decay}"
        self.decay, self.num_updates = decay, 0
        self._live = dict(module.state_dict())
        self._averages = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        floating = [name for name, tensor in self._live.items() if tensor.is_floating_point()]
        assert all(self._live[name].dtype == torch.float32 for name in floating), "weights to average are fp32"
        copied = _batch_norm_statistics(module)
        blended = [name for name in floating if name not in copied]
        self._blended = [self._averages[name] for name in blended], [self._live[name] for name in blended]
        self._copied = [(self._averages[name], self._live[name]) for name in self._live if name not in set(blended)]

    @torch.no_grad()
    def update(self) -> None:
        """Update the averages by the module's current weights."""
        decay = float(decays(self.decay, self.num_updates, self.num_updates + 1)[0])
        self.num_updates += 1
        averages, weights = self._blended
        torch._foreach_lerp_(averages, weights, 1 - decay)
        for average, value in self._copied:
            average.copy_(value)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the module's weights and the averages; a second call puts both back, to the bit."""
        for name, average in self._averages.items():
            weight = self._live[name].clone()
            self._live[name].copy_(average)
            average.copy_(weight)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module hold the averages inside a block."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Copy the averages into a module of the same shape."""
        module.load_state_dict(self._averages)

    def state(self) -> dict[str, Tensor]:
        """Return the averages by name, for a checkpoint that also keeps `num_updates`."""
        return dict(self._averages)

    @torch.no_grad()
    def load(self, averages: dict[str, Tensor], num_updates: int) -> None:
        """Continue from a checkpoint's averages. Raises DataError where they are another network's."""
        for name in sorted(averages.keys() | self._averages.keys()):
            found, own = averages.get(name), self._averages.get(name)
            if found is None or own is None or found.shape != own.shape:
                raise DataError(f"the checkpoint's EMA does not fit this network at {name}")
        for name, average in self._averages.items():
            average.copy_(averages[name])
        self.num_updates = num_updates


def _batch_norm_statistics(module: nn.Module) -> set[str]:
    """Return the names of the running means and variances."""
    norms = [name for name, each in module.named_modules() if isinstance(each, nn.modules.batchnorm._BatchNorm)]
    return {f"{name}.{kind}".lstrip(".") for name in norms for kind in BATCH_NORM_STATISTICS}
