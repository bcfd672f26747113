"""Labelled images by index, wherever they are kept: what every kind of source becomes."""

import hashlib
import struct
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import chain, pairwise

import numpy as np
from PIL import Image

from ..errors import DataError
from ..system.machine import num_cores
from . import decode
from .budget import MEMORY
from .order import pieces

_MOST_NUMBERS = 100_000  # greatest label that may be one of classes without images, as held-out parts have them
_LONGEST_NAME = 1000  # letters of a class; pictures and reports make room for it
Fetch = Callable[[int], "bytes | np.ndarray"]


Captions = list[tuple[str, ...]]  # of each image, one or more


@dataclass(frozen=True, eq=False)
class Others:
    """Files beside images that are not images themselves, by name, and how to read one."""

    names: frozenset[str]
    read: Callable[[str], bytes]


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labelled images. Sample i is `names[i]` with `labels[i]`; samples are in the order of their names.

    Without class folders or labels (`labelled` is False) there is one class, "all", and every label is 0.
    `ignored` names visible files that are not images, `empty_folders` the class folders without any. Names hold bytes
    that are not UTF-8 as Python's surrogates. `captions` and `synthetic`, a second set of them, are None where there
    are none, or where `others`, the files that may hold them, were not read.
    """

    location: str
    class_names: tuple[str, ...]
    names: list[str]
    labels: np.ndarray  # int64 (N,), all in 0 … len(class_names) - 1
    fetch: Fetch  # the content of stored sample rows[i]
    rows: np.ndarray  # int64 (N,)
    labelled: bool = True
    ignored: tuple[str, ...] = ()
    digests: dict[int, bytes] = field(default_factory=dict, repr=False)  # by row, shared between subsets
    empty_folders: tuple[str, ...] = ()
    numbered: bool = False  # whether classes have no other names than 0 … the greatest label
    captions: Captions | None = None
    synthetic: Captions | None = None
    others: Others | None = None
    masks: np.ndarray | None = None  # int64 (N,), the row of each one's mask, -1 without; None where they do not count

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes | np.ndarray:
        """Return a sample's content: the bytes of its file, or uint8 (H, W) or (H, W, 3 or 4) where arrays are kept."""
        return self.fetch(int(self.rows[index]))

    def read_mask(self, index: int) -> bytes | np.ndarray | None:
        """Return the content of a sample's mask, as `read` does; None where it has none."""
        row = -1 if self.masks is None else int(self.masks[index])
        return None if row < 0 else self.fetch(row)

    def mask(self, index: int) -> Image.Image | None:
        """Decode a sample's mask; None where it has none. Raises DataError naming its sample for a damaged one."""
        content = self.read_mask(index)
        if isinstance(content, bytes):
            return decode.decode_picture(content, f"{self.location}: the mask of {self.names[index]}", decode.BLACK)
        return None if content is None else Image.fromarray(content)

    @property
    def kept_as_arrays(self) -> bool:
        """Whether samples are kept as pixels and not as files."""
        try:
            return bool(len(self)) and not isinstance(self.read(0), bytes)
        except DataError:
            return False

    def image(self, index: int, content: bytes | np.ndarray | None = None) -> np.ndarray:
        """Decode a sample to RGB, uint8 (H, W, 3); DataError naming it when that cannot be done.

        content: what was read of it, if it was.
        """
        return np.array(self.picture(index, content=content))

    def picture(
        self,
        index: int,
        background: tuple[int, int, int] | None = decode.WHITE,
        content: bytes | np.ndarray | None = None,
    ) -> Image.Image:
        """Decode a sample to RGB as `image` does, without taking its pixels out of Pillow.

        Without a background it is RGBA, where the sample has transparency.
        """
        content = self.read(index) if content is None else content
        if isinstance(content, bytes):
            return decode.decode_picture(content, f"{self.location}: {self.names[index]}", background)
        picture = Image.fromarray(content)
        return decode.opaque(picture, background) if picture.mode == "RGBA" else decode.in_mode(picture, "RGB")

    def content_hash(self, index: int) -> bytes:
        """Return the sha256 of a sample's content (of shape and pixels where arrays are kept), 32 bytes."""
        with MEMORY.unit():
            return self.known_hash(index) or self.remember(index, self.read(index))

    def remember(self, index: int, content: bytes | np.ndarray) -> bytes:
        """Return the `content_hash` of a sample whose content was read, so that it need not be read again for it."""
        return self.digests.setdefault(int(self.rows[index]), content_digest(content))

    def known_hash(self, index: int) -> bytes | None:
        """Return the `content_hash` of a sample where that was computed before."""
        return self.digests.get(int(self.rows[index]))

    def content_hashes(self) -> list[bytes]:
        """Return every sample's `content_hash`, in order, reading in parallel; read once, then remembered."""
        with ThreadPoolExecutor(num_workers()) as pool:
            blocks = pieces(np.arange(len(self)), 256)
            return list(chain.from_iterable(pool.map(lambda block: list(map(self.content_hash, block)), blocks)))

    def fingerprint(self) -> str:
        """Return a sha256, hex, of class names and of the sorted (name, label, content hash) of all samples."""
        whole = hashlib.sha256()
        for class_name in self.class_names:
            whole.update(_framed(class_name))
        rows = zip(self.names, self.labels.tolist(), self.content_hashes(), strict=True)
        for name, label, digest in sorted(rows):
            whole.update(_framed(name) + struct.pack("<q", label) + digest)
        return whole.hexdigest()

    def caption_fingerprint(self) -> str:
        """Return a sha256, hex, of the sorted (name, captions, synthetic captions) of all samples."""
        whole = hashlib.sha256()
        none: Captions = [()] * len(self)
        for name, *sets in sorted(zip(self.names, self.captions or none, self.synthetic or none, strict=True)):
            whole.update(_framed(name))
            for texts in sets:
                whole.update(struct.pack("<q", len(texts)) + b"".join(map(_framed, texts)))
        return whole.hexdigest()

    def subset(self, indices: np.ndarray | Sequence[int]) -> "ImageSource":
        """Return the source holding only the samples at `indices`, in that order, with all the class names."""
        chosen = np.asarray(indices, dtype=np.int64)
        names = [self.names[i] for i in chosen]
        captions, synthetic = (each and [each[i] for i in chosen] for each in (self.captions, self.synthetic))
        parts = replace(self, names=names, labels=self.labels[chosen], rows=self.rows[chosen])
        masks = None if self.masks is None else self.masks[chosen]
        return replace(parts, captions=captions, synthetic=synthetic, masks=masks)

    def with_classes(self, class_names: tuple[str, ...]) -> "ImageSource":
        """Return the source with its labels counted in another list of classes that holds all of its own.

        Raises DataError naming the classes that are not in the list.
        """
        if not self.labelled and class_names != self.class_names:
            message = f"{self.location} has neither class folders nor labels, while the training images have"
            raise DataError(message, f"sort its images into folders named {', '.join(class_names[:5])} …")
        strangers = [name for name in self.class_names if name not in class_names]
        if strangers:
            message = f"{self.location} has classes that the training images lack: {', '.join(strangers[:5])}"
            raise DataError(message, f"leave those out; the training images have {', '.join(class_names[:10])}")
        table = np.array([class_names.index(name) for name in self.class_names], dtype=np.int64)
        return replace(self, class_names=class_names, labels=table[self.labels])

    def require_full_folders(self) -> "ImageSource":
        """Return the source itself, or raise DataError naming a class folder without images."""
        if self.empty_folders:
            message = f"{self.location} has a class folder without images: {self.empty_folders[0]}"
            raise DataError(message, "add images to it, or move it elsewhere")
        return self

    def require_every_class(self) -> "ImageSource":
        """Return the source itself, or raise DataError naming the classes that have no image."""
        if self.numbered:
            _refuse_gap(self.location, self.names, self.labels)
        counts = np.bincount(self.labels, minlength=len(self.class_names))
        empty = [self.class_names[label] for label in np.flatnonzero(counts == 0)]
        if empty:
            message = f"{self.location} has no images of class {listed(empty)}"
            raise DataError(message, "add images, or leave the class out and number the labels 0, 1, 2 …")
        return self


def image_source(
    location: str,
    names: Sequence[str],
    fetch: Fetch,
    labels: np.ndarray | None,
    class_names: Sequence[str] | None = None,
    ignored: Sequence[str] = (),
    empty_folders: Sequence[str] = (),
) -> ImageSource:
    """Build a source, in the order of the names; `fetch(i)` gives the content of `names[i]`.

    Without labels there is one class, "all"; without class names they are the numbers from 0 to the greatest label, and
    some may have no image: what is held out need not show every class. Raises DataError for no images, two of one name,
    a negative label, a label beyond the class names, or one so great that it must be a mistake.
    """
    if not len(names):
        raise DataError(
            f"{location} has no images",
            f"give another, or add some that end in {', '.join(decode.SUFFIXES[:5])} or the like",
        )
    order = sorted(range(len(names)), key=lambda i: _encoded(names[i]))
    ordered = [names[i] for i in order]
    for before, after in pairwise(ordered):
        if before == after:
            raise DataError(f"{location} holds two files named {after}", "rename or remove one of them")
    rows = np.array(order, dtype=np.int64)
    if labels is None:
        zeros = np.zeros(len(rows), dtype=np.int64)
        return ImageSource(location, ("all",), ordered, zeros, fetch, rows, False, tuple(ignored))
    for class_name in class_names or ():
        if not is_text(class_name):
            raise DataError(f"{location} has a class named {class_name!r}, which is not text", "rename the class")
        if len(class_name) > _LONGEST_NAME:
            message = f"{location} has a class whose name has {len(class_name):,} letters: {class_name[:40]!r}…"
            raise DataError(message, f"give it a name of at most {_LONGEST_NAME:,}")
    labels = np.asarray(labels, dtype=np.int64)
    assert labels.shape == (len(names),), f"{labels.shape} labels for {len(names)} names"
    worst = int(labels.argmin() if labels.min() < 0 else labels.argmax())
    if labels[worst] < 0 or (class_names is not None and labels[worst] >= len(class_names)):
        known = "0, 1, 2 …" if class_names is None else f"0 to {len(class_names) - 1}"
        raise DataError(f"{location}: {names[worst]} has label {labels[worst]}, not one of {known}", "mend the label")
    numbered = class_names is None
    if class_names is None:
        if labels[worst] >= _MOST_NUMBERS:
            _refuse_gap(location, names, labels)
        class_names = [str(number) for number in range(int(labels[worst]) + 1)]
    source = ImageSource(location, tuple(class_names), ordered, labels[rows], fetch, rows, True, tuple(ignored))
    return replace(source, empty_folders=tuple(empty_folders), numbered=numbered)


def content_digest(content: bytes | np.ndarray) -> bytes:
    """Return the sha256 of what a sample holds, 32 bytes: of its file, or of shape and pixels."""
    framed = content if isinstance(content, bytes) else repr(content.shape).encode() + content.tobytes()
    return hashlib.sha256(framed).digest()


def listed(names: Sequence[str], limit: int = 5) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit:,} more" if len(names) > limit else "")


def num_workers() -> int:
    """Return how many threads read and decode: one per processor this process may use, at most 16."""
    return min(16, num_cores())


def _refuse_gap(location: str, names: Sequence[str], labels: np.ndarray) -> None:
    """Raise DataError where a number below the greatest label labels no image; often that label is a mistake."""
    distinct, first = np.unique(labels, return_index=True)
    if distinct[-1] >= len(distinct):
        missing = int(np.flatnonzero(distinct != np.arange(len(distinct)))[0])
        culprit = f"label {distinct[-1]} of {names[first[-1]]} is the greatest, yet no image has label {missing}"
        raise DataError(f"{location}: {culprit}", "number the labels 0, 1, 2 … or name all classes in classes.json")


def is_text(value: object) -> bool:
    """Return whether a value is text that a file can be named by: JSON may hold halves of surrogate pairs."""
    try:
        return isinstance(value, str) and _encoded(value) is not None
    except UnicodeEncodeError:
        return False


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _framed(text: str) -> bytes:
    return struct.pack("<q", len(_encoded(text))) + _encoded(text)
