"""Decoded batches of images for training: all at once in memory where they fit, else decoded as they are needed."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from math import prod

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import DataError
from .budget import MEMORY
from .crops import Crop
from .dataset import ImageSource, content_digest, num_workers
from .decode import BLACK, WHITE, Fit, as_tensor, is_dark, sides, to_training
from .order import mirrored, pieces
from .reading import in_order, read_each
from .squares import Squares

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}  # Pillow's, by channels
_BLOCK = 64  # images between two reports of progress


@dataclass(frozen=True)
class Preparation:
    """How images become training squares, or what else their size is, and what to do about broken ones.

    image_size: the side, or height and width. channels: 3 in colour; 1 grey, of equal colours the very same value; 4
    with alpha, and the background where that is 0. `on_error`: "stop" at the first image that cannot be decoded, or
    "skip" such images if they are at most `max_skipped` of all. `cache_bytes`: decoded images are all kept in memory if
    they fit in this.
    """

    image_size: int | tuple[int, int]
    background: tuple[int, int, int] = WHITE
    fit: Fit = "crop"
    on_error: str = "stop"
    max_skipped: float = 0.01
    cache_bytes: int = 2 << 30
    channels: int = 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, channels) of a square."""
        return *sides(self.image_size), self.channels

    @property
    def behind(self) -> tuple[int, int, int] | None:
        """What transparent pictures are laid on; None where they stay transparent."""
        return None if self.channels == 4 else self.background

    def square(self, picture: Image.Image) -> np.ndarray:
        """Bring a picture to the square of training, uint8 (H, W, channels)."""
        pixels = to_training(picture, self.image_size, self.fit, self.background, _MODES[self.channels])
        if self.channels == 4:
            pixels[pixels[:, :, 3] == 0, :3] = self.background  # whatever colour the file hides there
        return pixels.reshape(self.shape)


class ImageLoader:
    """The usable images of a source at one size, by index.

    Which images are usable is decided here, once, before any batch: with a cache, or with on_error="skip", by decoding
    every image; with neither, all count as usable and the first broken one stops the work when its turn comes.

    Attributes: `source`, holding the usable samples only (its `labels`, `names` and `class_names` count from there);
    `skipped`, the (name, reason) of each that was left out; `num_dark`, how many of those in memory are nearly black.
    on_disk: squares of this preparation that are read in place of decoding, and added to. Raises DataError for a broken
    image, for more of them than `max_skipped`, and, where there were images of every class, for a class without any.
    """

    def __init__(
        self,
        source: ImageSource,
        prepare: Preparation,
        on_progress: Callable[[int, int], None] | None = None,
        on_disk: Squares | None = None,
    ) -> None:
        assert min(prepare.shape) > 0 and prepare.on_error in ("stop", "skip"), f"{prepare}"
        self.source = source
        self.prepare = prepare
        self.skipped: list[tuple[str, str]] = []
        self.num_dark = 0
        self._on_disk = on_disk
        self._pool = ThreadPoolExecutor(num_workers(), thread_name_prefix="decode")
        self._cache: np.ndarray | None = None
        self._masks: np.ndarray | None = None
        shape = len(source), *prepare.shape
        fits = prod(shape) <= prepare.cache_bytes
        if fits or prepare.on_error == "skip":
            self._decode_all(np.empty(shape, dtype=np.uint8) if fits else None, on_progress)

    @property
    def labels(self) -> np.ndarray:
        """The usable images' labels, int64 (N,)."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, indices: np.ndarray) -> np.ndarray:
        """Return the images at `indices`, uint8 (B, H, W, C), decoding in parallel what is not in memory."""
        return next(self.batches([indices]))

    def masks(self, indices: np.ndarray) -> np.ndarray:
        """Return what the loss counts of the images at `indices`, uint8 (B, H, W): all of those without a mask."""
        if self._cache is not None and self._masks is None:
            self._masks = np.stack([*self._pool.map(self._mask, range(len(self)))])
        if self._masks is not None:
            return self._masks[indices]
        return np.stack([*self._pool.map(self._mask, np.asarray(indices).tolist())])

    def crops(self, indices: np.ndarray, many: Sequence[Sequence[Crop]]) -> np.ndarray:
        """Return crops of the images at `indices`, as many of each, uint8 (B, N, H, W, C), decoding in parallel.

        Raises DataError for a broken image.
        """
        return np.stack([*self._pool.map(self._crops, np.asarray(indices).tolist(), many)])

    def batches(self, many: Iterable[np.ndarray], ahead: int = 2) -> Generator[np.ndarray, None, None]:
        """Yield one batch per array of indices, in order, decoding up to `ahead` batches beyond the one in use."""
        if self._cache is not None:
            yield from (self._cache[indices] for indices in many)
            return
        many = list(many)
        rows = (int(row) for indices in many for row in indices)
        with closing(in_order(self._pool, self._square, rows, ahead * max(map(len, many), default=0))) as squares:
            for indices in many:
                some = list(islice(squares, len(indices)))
                yield np.array(some, dtype=np.uint8).reshape(-1, *self.prepare.shape)
        if self._on_disk is not None:
            self._on_disk.flush()

    def in_turn(self, size: int, chosen: np.ndarray | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (indices, images) of all samples, or of the chosen ones in their order, `size` at a time."""
        batches = pieces(np.arange(len(self)) if chosen is None else chosen, size)
        yield from zip(batches, self.batches(batches), strict=True)

    def close(self) -> None:
        """Stop the decoding threads."""
        self._pool.shutdown(cancel_futures=True)

    def _square(self, index: int, content: bytes | np.ndarray | None = None) -> np.ndarray:
        known = self._from_disk(index)
        if known is not None:
            return known
        with MEMORY.unit():
            content = self.source.read(index) if content is None else content
            square = self.prepare.square(self._picture(index, content))
        if self._on_disk is not None:
            self._on_disk.put(content_digest(content), square)  # of what was decoded: a file may have changed meanwhile
        return square

    def _crops(self, index: int, crops: Sequence[Crop]) -> np.ndarray:
        height, width, _ = self.prepare.shape
        cut = []
        with MEMORY.unit():
            picture = self._picture(index, self.source.read(index))
            for crop in crops:
                whole = replace(self.prepare, image_size=crop.enlarged).square(picture)
                cut.append(whole[crop.top : crop.top + height, crop.left : crop.left + width])
        return np.stack(cut)

    def _picture(self, index: int, content: bytes | np.ndarray) -> Image.Image:
        try:
            return self.source.picture(index, self.prepare.behind, content)
        except DataError as error:
            remedy = f"{error.remedy}, or leave out broken images: `data.on_error=skip`"
            raise DataError(error.message, remedy) from error

    def _mask(self, index: int) -> np.ndarray:
        with MEMORY.unit():
            mask = self.source.mask(index)
            if mask is None:
                return np.full(self.prepare.shape[:2], 255, np.uint8)
            return replace(self.prepare, background=BLACK, channels=1).square(mask)[:, :, 0]

    def _from_disk(self, index: int) -> np.ndarray | None:
        digest = self.source.known_hash(index) if self._on_disk is not None else None
        return self._on_disk.get(digest) if self._on_disk is not None and digest is not None else None

    def _decode_all(self, cache: np.ndarray | None, on_progress: Callable[[int, int], None] | None) -> None:
        """Decode every image into `cache`, if there is one, and leave the broken ones out."""
        whole = self.source
        keep = np.ones(len(whole), dtype=bool)

        def take(index: int, square: np.ndarray | None) -> bool:
            if cache is not None and square is not None:
                cache[index] = square
            return square is not None

        # What is on the disk is not read again; the others are decoded.
        on_disk = self._pool.map(lambda index: take(index, self._from_disk(index)), range(len(whole)))
        rows = np.flatnonzero(~np.fromiter(on_disk, bool, len(whole)))
        rest = whole.subset(rows)
        if on_progress is not None and not len(rows):
            on_progress(len(whole), len(whole))

        def decode(place: int, content: bytes | np.ndarray) -> bool:
            return take(int(rows[place]), self._square(int(rows[place]), content))

        for place, error in enumerate(read_each(rest, decode)):
            index = int(rows[place])
            if isinstance(error, DataError):
                if self.prepare.on_error == "stop":
                    raise error
                keep[index] = False
                self.skipped.append((whole.names[index], error.message))
                if len(self.skipped) > self.prepare.max_skipped * len(whole):
                    self._refuse(len(whole))
            done = len(whole) - len(rows) + place + 1
            if on_progress is not None and (done % _BLOCK == 0 or done == len(whole)):
                on_progress(done, len(whole))

        if self._on_disk is not None:
            self._on_disk.flush()
        if self.skipped:
            self.source = whole.subset(np.flatnonzero(keep))
            # What is held out need not show every class.
            if len(np.unique(whole.labels)) == len(whole.class_names):
                self.source.require_every_class()
            cache = cache[keep] if cache is not None else None
        self._cache = cache
        self.num_dark = sum(map(is_dark, cache)) if cache is not None else 0

    def _refuse(self, total: int) -> None:
        listed = "; ".join(reason for _, reason in self.skipped[:3])
        message = f"{self.source.location}: already {len(self.skipped)} of {total} images cannot be decoded: {listed}"
        most = f"{self.prepare.max_skipped:.0%} are skipped (data.max_skipped)"
        raise DataError(message, f"mend or remove them; at most {most}")


def training_images(images: ImageLoader, samples: np.ndarray, positions: np.ndarray, seed: int, flips: bool) -> Tensor:
    """Return images of samples (B,), float32 (B, C, H, W) in [-1, 1], as positions (B,) of the stream draw them.

    flips: half of them are mirrored.
    """
    pixels = as_tensor(images.batch(samples))
    if flips:
        chosen = mirrored(positions, seed)
        pixels[chosen] = pixels[chosen].flip(-1)
    return pixels
