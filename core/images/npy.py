"""The `.npy` format: a header, which is a Python literal, then numbers. Nothing in it is run or unpickled."""

import io
import math
from typing import IO

import numpy as np


def parse(content: bytes) -> tuple[np.ndarray, int]:
    """Return the array in a whole file, on its very bytes, and where its numbers begin.

    Raises ValueError for Python objects, which only unpickling could read, and for more or fewer bytes than the header
    claims; of a damaged header whatever numpy's and Python's parser raise.
    """
    file = io.BytesIO(content)
    shape, fortran_order, dtype = read_header(file, len(content))
    start = file.tell()
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C"), start


def read_header(file: IO[bytes], size: int) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a file of so many bytes up to its numbers: shape, whether in Fortran's order, and dtype.

    Raises as `parse` does.
    """
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    if dtype.hasobject or dtype.kind == "V":
        raise ValueError("it holds Python objects, which are never unpickled: save plain numbers")
    claimed, held = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != held:
        raise ValueError(f"its header claims {claimed:,} bytes of numbers, it holds {held:,}")
    return shape, fortran_order, dtype
