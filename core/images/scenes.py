"""Scenes of coloured digits on coloured grounds, drawn from the built-in digits by a seed: captioned images.

Scene i of a part is a function of (part, i): as arrays, drawn when they are read. Each has a short caption, which
leaves things out, and a detailed one as its synthetic caption.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import numpy as np

from .. import seeds
from ..conditioning.scenes import COLOURS, DIGITS, GROUNDS, SIZES, Scene, Thing, caption
from ..errors import DataError
from .arrays import idx_pairs, read_idx
from .dataset import ImageSource, image_source
from .listing import Parts

T = TypeVar("T")
SCENES = re.compile(r"scenes(-(?P<size>64))?(:(?P<count>[0-9]{1,9}))?")
SEED = 5
_MOST = 1_000_000
_DRAWS = 48  # of each scene, more than any needs
SIDE = 32  # of the canvas on which places and sizes are counted, pixels
BUILTIN_DIGITS = Path(__file__).with_name("builtin") / "mnist"
COUNT = {"train": 24_000, "val": 2_000}
_DIGITS = {"train": "train", "val": "test"}  # of which part of the built-in digits
# How the first of two lies to the second. Mostly the left or upper one is named first, as people do: with as many of
# each, neither a digit's place in the caption nor the relation would say anything without the other, and learning that
# takes long.
_RELATIONS = ("left of", "left of", "left of", "right of", "above", "above", "above", "below")
_READING = ("left of", "above")  # where things are named in reading order
_LONGER = {"small": (13, 15), "large": (21, 25)}  # the longer side of a digit, pixels, up to but without


@dataclass(frozen=True)
class Placed:
    """A digit on the canvas of 32 pixels. glyph: its place among the images of its digit. centre: down, right."""

    thing: Thing
    glyph: int
    longer: int
    centre: tuple[float, float]


@dataclass(frozen=True)
class Drawn:
    """A scene, all of it said, with what words leave open."""

    scene: Scene
    placed: tuple[Placed, ...]
    shades: np.ndarray  # float64 (things + 1, 3): the ground's colour, then each one's
    short: str


def parts_of_scenes(name: str, location: str) -> Parts:
    """Open scenes by their name: `scenes` or `scenes-64`, and `scenes:500` for so many in place of all.

    Raises DataError for none, and for more than a million.
    """
    found = SCENES.fullmatch(name)
    assert found is not None, f"{name} names no scenes"
    count = int(found["count"] or COUNT["train"])
    if not 0 < count <= _MOST:
        raise DataError(f"{location} asks for {count:,} scenes", f"choose from 1 to {_MOST:,}")
    size = int(found["size"] or SIDE)
    counts = {"train": count, "val": max(1, min(COUNT["val"], count // 5))}
    return {part: partial(_open, part, counts[part], size, location) for part in counts}


def _open(part: str, count: int, size: int, location: str) -> ImageSource:
    glyphs = glyphs_of(BUILTIN_DIGITS, _DIGITS[part])
    scenes = draw_scenes(part, count, [len(each) for each in glyphs])

    def fetch(row: int) -> np.ndarray:
        return picture(scenes[row], glyphs, size)

    names = [f"{index:06d}" for index in range(count)]
    source = image_source(location, names, fetch, None)
    return replace(
        source,
        captions=[(drawn.short,) for drawn in scenes],
        synthetic=[(caption(drawn.scene),) for drawn in scenes],
    )


@lru_cache(maxsize=4)
def glyphs_of(digits: Path, part: str) -> list[list[np.ndarray]]:
    """Return the clear ones of the built-in digits of a part, by digit: float64 (h, w) in [0, 1], without the border.

    A digit is clear where the three most like it among the training digits are of its kind: what a caption calls a
    three should be read as one. About 87 % are.
    """
    trained, numbers = _trimmed_digits(digits, "train")
    glyphs, labels = (trained, numbers) if part == "train" else _trimmed_digits(digits, part)
    clear = _clear(_coded(glyphs), labels, _coded(trained), numbers, same=part == "train")
    chosen = [np.flatnonzero(clear & (labels == digit)) for digit in range(len(DIGITS))]
    return [[glyphs[row] for row in rows] for rows in chosen]


def _trimmed_digits(digits: Path, part: str) -> tuple[list[np.ndarray], np.ndarray]:
    images, labels = (read_idx(path) for path in idx_pairs(digits)[part])
    return [_trimmed(image) for image in images.read(0, len(images))], labels.read(0, len(labels))


def _trimmed(image: np.ndarray) -> np.ndarray:
    rows, columns = (np.flatnonzero((image > 64).any(axis)) for axis in (1, 0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] / 255.0


def _coded(glyphs: Sequence[np.ndarray]) -> np.ndarray:
    """Return glyphs as 14 x 14 whole numbers from 0 to 15, float32 (N, 196): sums of their products are exact."""
    return np.floor(15.999 * np.stack([framed(glyph, 14, 14).ravel() for glyph in glyphs])).astype(np.float32)


def _clear(codes: np.ndarray, labels: np.ndarray, known: np.ndarray, numbers: np.ndarray, same: bool) -> np.ndarray:
    """Return whether the three nearest of the known are of each one's kind, bool (N,). same: these are the known."""
    clear = np.empty(len(codes), dtype=bool)
    columns = [np.flatnonzero(numbers == digit) for digit in range(len(DIGITS))]
    for start in range(0, len(codes), 1000):
        rows = np.arange(start, min(start + 1000, len(codes)))
        far = (known**2).sum(1) - 2 * codes[rows] @ known.T
        if same:
            far[np.arange(len(rows)), rows] = np.inf
        nearest = np.stack([far[:, of].min(1) for of in columns], axis=1)
        for digit, of in enumerate(columns):
            own = np.flatnonzero(labels[rows] == digit)
            third = np.partition(far[np.ix_(own, of)], 2, axis=1)[:, 2]
            clear[rows[own]] = third < np.delete(nearest[own], digit, axis=1).min(1)
    return clear


def draw_scenes(part: str, count: int, glyphs: list[int]) -> list[Drawn]:
    """Draw what the first scenes of a part show. glyphs: how many there are of each digit."""
    draws = seeds.uniform(SEED, f"scenes {part}", range(count), (_DRAWS,)).numpy()
    return [_drawn(iter(each), glyphs) for each in draws.tolist()]


def _drawn(draw: Iterator[float], glyphs: list[int]) -> Drawn:
    """Make a scene of numbers in [0, 1)."""
    kind = next(draw)
    ground = _one_of([*GROUNDS], draw)
    colours, numbers = _two_of([*COLOURS], draw), _two_of(range(len(DIGITS)), draw)
    if kind < 0.3:
        size = _one_of(SIZES, draw)
        scene = Scene((Thing(numbers[0], colours[0], size),), ground=ground)
        reach = 3.0 if size == "large" else 8.0
        centres = [(SIDE / 2 + _within(reach, draw), SIDE / 2 + _within(reach, draw))]
    elif kind < 0.75:
        relation = _one_of(_RELATIONS, draw)
        scene = Scene(tuple(map(Thing, numbers, colours)), relation=relation, ground=ground)
        centres = _pair(relation, draw)
    else:
        scene = Scene((Thing(numbers[0], colours[0]),), _one_of((2, 3, 4), draw), ground=ground)
        quarters = sorted(range(4), key=lambda _: next(draw))[: scene.count]
        at = [[SIDE * (0.25 + 0.5 * half) for half in divmod(q, 2)] for q in quarters]
        centres = [(down, across) for down, across in at]
    placed = []
    for thing, centre in zip(scene.things * scene.count, centres, strict=True):
        longer = _one_of(range(*_LONGER[thing.size or "small"]), draw)
        placed.append(Placed(thing, _one_of(range(glyphs[thing.digit]), draw), longer, centre))
    short = caption(_shortened(scene, draw))
    named = [GROUNDS[ground], *(COLOURS[str(each.thing.colour)] for each in placed)]
    return Drawn(
        scene,
        tuple(placed),
        np.array([[part + _within(8, draw) for part in shade] for shade in named]).clip(0, 255),
        short,
    )


def _one_of(values: Sequence[T], draw: Iterator[float]) -> T:
    return values[int(next(draw) * len(values))]


def _two_of(values: Sequence[T], draw: Iterator[float]) -> tuple[T, T]:
    """Choose two that differ."""
    first = int(next(draw) * len(values))
    second = int(next(draw) * (len(values) - 1))
    return values[first], values[second + (second >= first)]


def _within(reach: float, draw: Iterator[float]) -> float:
    return reach * (2 * next(draw) - 1)


def _pair(relation: str, draw: Iterator[float]) -> list[tuple[float, float]]:
    """Place two digits, the first in a relation to the second."""
    across = _within(6, draw)
    before = (SIDE / 4, SIDE / 2 + across + _within(2, draw))
    behind = (SIDE * 3 / 4, SIDE / 2 + across + _within(2, draw))
    places = [before, behind] if relation in _READING else [behind, before]
    return [(other, along) for along, other in places] if relation.endswith("of") else places


def _shortened(scene: Scene, draw: Iterator[float]) -> Scene:
    """Leave out the ground mostly, and each of the rest half of the time.

    Where it is not said how two things lie, they are named in reading order: left before right, upper before lower.
    """
    # One draw for all that may be left out.
    form = int(next(draw) * 32)
    coloured, related, sized, grounded = form & 1, form & 2, form & 4, form >= 24
    things = tuple(
        Thing(each.digit, each.colour if coloured else None, each.size if sized else None) for each in scene.things
    )
    if scene.relation and scene.relation not in _READING and not related:
        things = things[::-1]
    return Scene(things, scene.count, scene.relation if related else None, scene.ground if grounded else None)


def picture(drawn: Drawn, glyphs: list[list[np.ndarray]], size: int) -> np.ndarray:
    """Paint a scene, uint8 (size, size, 3)."""
    canvas = np.empty((size, size, 3))
    canvas[:] = drawn.shades[0]
    scale = size / SIDE
    for placed, shade in zip(drawn.placed, drawn.shades[1:], strict=True):
        ink = resized(glyphs[placed.thing.digit][placed.glyph], round(placed.longer * scale))
        top, left = (
            int(np.clip(round(scale * at - side / 2), 1, size - 1 - side))
            for at, side in zip(placed.centre, ink.shape, strict=True)
        )
        part = canvas[top : top + ink.shape[0], left : left + ink.shape[1]]
        part += ink[:, :, None] * (shade - part)
    return canvas.round().astype(np.uint8)


def resized(glyph: np.ndarray, longer: int) -> np.ndarray:
    """Resize ink (h, w) so that its longer side is `longer` pixels, and thin strokes are as strong as others."""
    height, width = glyph.shape
    scale = longer / max(height, width)
    down, across = (max(1, round(scale * side)) for side in (height, width))
    ink = _areas(down, height) @ glyph @ _areas(across, width).T
    return ink / ink.max()


def framed(glyph: np.ndarray, longer: int, side: int) -> np.ndarray:
    """Return ink resized to `longer` in the middle of an empty square, (side, side)."""
    ink = resized(glyph, longer)
    square = np.zeros((side, side))
    top, left = ((side - length) // 2 for length in ink.shape)
    square[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return square


@lru_cache(maxsize=4096)
def _areas(new: int, old: int) -> np.ndarray:
    """Return the matrix (new, old) by which pixels become weighted means over larger ones, or lines between them."""
    centres = (np.arange(new) + 0.5) * old / new - 0.5
    reach = max(1.0, old / new)
    weights = np.clip(1 - np.abs(centres[:, None] - np.arange(old)) / reach, 0, None)
    return weights / weights.sum(1, keepdims=True)


def real_scenes(part: str, count: int, size: int = SIDE) -> tuple[np.ndarray, list[str]]:
    """Return the first scenes of a part with their short captions, uint8 (count, size, size, 3)."""
    glyphs = glyphs_of(BUILTIN_DIGITS, _DIGITS[part])
    scenes = draw_scenes(part, count, [len(each) for each in glyphs])
    return np.stack([picture(scene, glyphs, size) for scene in scenes]), [scene.short for scene in scenes]
