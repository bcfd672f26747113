"""Weights and inputs by a rule that any language can repeat, under which reference outputs were recorded."""

import zlib

import numpy as np
import torch
from torch import Tensor, nn

_PHI = 0.7548776662466927


def values(name: str, shape: tuple[int, ...], amplitude: float = 1.0) -> Tensor:
    """Return v_i = a sin(i² φ + crc32(name) mod 997), row-major, computed in float64, as float32."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    wave = amplitude * np.sin(i * i * _PHI + zlib.crc32(name.encode()) % 997)
    return torch.from_numpy(wave.astype(np.float32)).reshape(shape)


@torch.no_grad()
def fill(network: nn.Module) -> None:
    """Fill all floats: amplitude .08 for two or more dimensions, .3 for fewer; `running_var` with 1 + .3 sin."""
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            wave = values(name, tuple(tensor.shape), 0.08 if tensor.dim() > 1 else 0.3)
            tensor.copy_(1 + wave if name.endswith("running_var") else wave)
