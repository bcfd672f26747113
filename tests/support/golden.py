"""Weights and inputs that any program can write again, so that outputs of other implementations stand as numbers."""

import math
import zlib

import numpy as np
import torch
from torch import Tensor


def filled(name: str, shape: tuple[int, ...], amplitude: float | None = None) -> Tensor:
    """Return amplitude · sin(i² φ + crc32(name) mod 997), row by row, float32; φ = 0.7548776662466927.

    amplitude: by default 0.08 for tensors of two or more dimensions, 0.3 for fewer.
    """
    index = np.arange(math.prod(shape), dtype=np.float64)
    amplitude = (0.08 if len(shape) > 1 else 0.3) if amplitude is None else amplitude
    values = amplitude * np.sin(index * index * 0.7548776662466927 + zlib.crc32(name.encode()) % 997)
    return torch.from_numpy(values).float().reshape(shape)
