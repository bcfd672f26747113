"""The `.npy` format: a header, which is a Python literal, then numbers. Nothing in it is run or unpickled."""

import io
import math

import numpy as np


def parse(content: bytes) -> tuple[np.ndarray, int]:
    """Return the array in a whole file, on its very bytes, and where its numbers begin.

    Raises ValueError for Python objects, which only unpickling could read, and for more or fewer bytes than the header
    claims; of a damaged header whatever numpy's and Python's parser raise.
    """
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read(file)
    start = file.tell()
    if dtype.hasobject or dtype.kind == "V":
        raise ValueError("it holds Python objects, which are never unpickled: save plain numbers")
    claimed, held = math.prod(shape) * dtype.itemsize, len(content) - start
    if claimed != held:
        raise ValueError(f"its header claims {claimed:,} bytes of numbers, it holds {held:,}")
    return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran_order else "C"), start
