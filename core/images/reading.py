"""Every sample of a source read and worked on once, in order, several at a time where that is faster."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import TypeVar

import numpy as np

from ..errors import DataError
from .budget import MEMORY
from .dataset import ImageSource, num_workers

S = TypeVar("S")
T = TypeVar("T")
_BLOCK = 32  # samples that one thread takes at a time


def read_each(source: ImageSource, work: Callable[[int, bytes | np.ndarray], T]) -> Iterator[T | DataError]:
    """Yield `work(index, content)` of every sample, in order, or the DataError that reading or working raised.

    Files are read and worked on by threads, a few blocks ahead: decoding lets go of Python's lock. Arrays, which need
    no decoding, are not worth a thread. What is read is hashed for `source.content_hash` on the way.
    """

    def one(index: int) -> T | DataError:
        try:
            with MEMORY.unit():
                content = source.read(index)
                if source.known_hash(index) is None:
                    source.remember(index, content)
                return work(index, content)
        except DataError as error:
            return error

    if source.kept_as_arrays:
        yield from map(one, range(len(source)))
        return
    workers = num_workers()
    blocks = (range(start, min(start + _BLOCK, len(source))) for start in range(0, len(source), _BLOCK))
    with (
        ThreadPoolExecutor(workers, thread_name_prefix="read") as pool,
        closing(in_order(pool, lambda block: [one(index) for index in block], blocks, 2 * workers)) as results,
    ):
        for block in results:
            yield from block


def in_order(
    pool: ThreadPoolExecutor, work: Callable[[S], T], items: Iterable[S], ahead: int
) -> Generator[T, None, None]:
    """Yield `work(item)` of every item, in order; the pool works on up to `ahead` items beyond the one in use."""
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
