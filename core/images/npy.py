"""The header of numpy's `.npy`: a Python literal, read without running or allocating anything."""

import math
from dataclasses import dataclass
from typing import IO

import numpy as np


@dataclass(frozen=True)
class Header:
    """What an array is: its shape, the order of its axes, its numbers."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype

    @property
    def num_bytes(self) -> int:
        """How many bytes its numbers take."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(file: IO[bytes]) -> Header:
    """Read a header, up to the first of the numbers. What a damaged one raises is numpy's and Python's parser's."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    header = Header(*read(file))
    if any(side < 0 for side in header.shape):
        raise ValueError(f"its shape is {header.shape}")
    return header
