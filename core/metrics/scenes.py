"""Whether images show what prompts about coloured digits ask for: GenEval's questions, answered by measurement.

Objects are connected regions that differ from the ground; each one's colour is that on whose line to the ground its
pixels lie best, and its digit is read by ridge regression on features of the built-in training digits: closed form, no
download. What real held-out scenes reach in the same reading is the ceiling of every number.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .. import seeds
from ..colours import in_rgb
from ..conditioning.scenes import CATEGORIES, COLOURS, DIGITS, GROUNDS, Scene, Thing, parse
from ..images.scenes import BUILTIN_DIGITS, SIDE, framed, glyphs_of, real_scenes

EXTRACTOR = "scenes"
SEED = 0
_DIFFERENT = 60.0  # distance in RGB by which a pixel belongs to an object
_SPECK, _LEAST = 4, 8  # pixels of a region that is nothing, and of an object
_SMALL, _LARGE = 16, 25  # the longer side of a small and of a large digit, at most
_SIZE = 18  # the longer side from which a digit is large
_APART = 3.0  # pixels between two centres, for one to be left of the other
_GLYPH, _FRAME = 20, 24  # sides of a digit that is read, and of the square around it
_FILTERS, _WIDTH, _PENALTY = 64, 7, 30.0


@dataclass(frozen=True)
class Seen:
    """An object of an image. box: (top, bottom, left, right), pixels of the canvas of 32."""

    digit: int
    colour: str
    box: tuple[int, int, int, int]

    @property
    def centre(self) -> np.ndarray:
        top, bottom, left, right = self.box
        return np.array([top + bottom, left + right]) / 2

    @property
    def size(self) -> str:
        top, bottom, left, right = self.box
        return "large" if max(bottom - top, right - left) >= _SIZE else "small"


@dataclass(frozen=True)
class View:
    """What is seen of an image."""

    ground: str
    objects: tuple[Seen, ...]


def shows(view: View, scene: Scene) -> bool:
    """Return whether an image shows a scene, as GenEval counts: counted things exactly, others at least once."""
    if scene.ground is not None and view.ground != scene.ground:
        return False
    if scene.count > 1:
        return sum(_is(seen, scene.things[0]) for seen in view.objects) == scene.count
    chosen = permutations(view.objects, len(scene.things))
    return any(all(map(_is, each, scene.things)) and _related(each, scene.relation) for each in chosen)


def _is(seen: Seen, thing: Thing) -> bool:
    return seen.digit == thing.digit and thing.colour in (None, seen.colour) and thing.size in (None, seen.size)


def _related(chosen: Sequence[Seen], relation: str | None) -> bool:
    if relation is None:
        return True
    down, across = chosen[1].centre - chosen[0].centre
    return bool({"left of": across, "right of": -across, "above": down, "below": -down}[relation] > _APART)


def table(texts: Sequence[str], views: Sequence[View]) -> dict[str, float]:
    """Return the share of images that show what their prompt says, by category; overall is the mean of the categories.

    Prompts of other kinds of text are left out.
    """
    right: dict[str, list[bool]] = {name: [] for name in CATEGORIES}
    for text, view in zip(texts, views, strict=True):
        if (scene := parse(text)) is not None:
            right[scene.category].append(shows(view, scene))
    shares = {name: float(np.mean(found)) for name, found in right.items() if found}
    return {**shares, "overall": float(np.mean([*shares.values()]))} if shares else {}


def asks_for_scenes(texts: Sequence[str]) -> bool:
    """Return whether some prompts are of the scenes' language."""
    return any(parse(text) is not None for text in texts)


def scene_numbers(texts: Sequence[str], images: np.ndarray) -> tuple[dict[str, float], dict[str, float]]:
    """Return the table of images, uint8 (N, S, S, 3), with their prompts, and its ceiling, named as numbers are."""
    numbers = table(texts, views_of(images))
    highest = ceiling()
    names = {kind: f"{kind.replace(' ', '_')}[{EXTRACTOR}]" for kind in numbers}
    return {names[kind]: numbers[kind] for kind in names}, {names[kind]: highest[kind] for kind in names}


@lru_cache(maxsize=1)
def ceiling(count: int = 600) -> dict[str, float]:
    """Return the table of real held-out scenes with their short captions."""
    images, captions = real_scenes("val", count)
    return table(captions, views_of(images))


def views_of(images: np.ndarray) -> list[View]:
    """Return what is seen of images, uint8 (N, S, S, 3)."""
    pixels = in_rgb(torch.from_numpy(images).permute(0, 3, 1, 2)).double()
    x = F.interpolate(pixels, size=(SIDE, SIDE), mode="area").permute(0, 2, 3, 1).numpy()
    grounds = np.median(np.concatenate([x[:, 0], x[:, -1], x[:, :, 0], x[:, :, -1]], axis=1), axis=1)
    regions = _regions(np.linalg.norm(x - grounds[:, None, None], axis=-1) > _DIFFERENT)
    found = [_objects(*each) for each in zip(x, grounds, regions, strict=True)]
    glyphs = [ink for objects in found for _, _, ink in objects]
    digits = iter(_read(np.stack(glyphs)).tolist() if glyphs else [])
    views = []
    for objects, ground in zip(found, grounds, strict=True):
        seen = tuple(Seen(next(digits), colour, box) for box, colour, _ in objects)
        views.append(View(_nearest(ground, GROUNDS), seen))
    return views


def _nearest(colour: np.ndarray, named: dict[str, tuple[int, int, int]]) -> str:
    return min(named, key=lambda name: float(np.linalg.norm(colour - named[name])))


def _regions(mask: np.ndarray) -> np.ndarray:
    """Number the connected regions (with diagonals) of masks (N, H, W); 0 is outside of them."""
    inside = torch.from_numpy(mask)
    numbers = torch.arange(1, mask[0].size + 1, dtype=torch.float32).reshape(mask[0].shape) * inside
    while True:
        grown = F.max_pool2d(numbers[:, None], 3, 1, 1)[:, 0] * inside
        if torch.equal(grown, numbers):
            return numbers.numpy().astype(np.int64)
        numbers = grown


def _objects(
    x: np.ndarray, ground: np.ndarray, regions: np.ndarray
) -> list[tuple[tuple[int, int, int, int], str, np.ndarray]]:
    """Return box, colour and ink of each object of an image (32, 32, 3)."""
    parts = [regions == number for number in np.unique(regions[regions > 0])]
    parts = _joined([part for part in parts if part.sum() >= _SPECK])
    objects = []
    for part in parts:
        if part.sum() < _LEAST:
            continue
        colour = _colour(x[part], ground)
        axis = COLOURS[colour] - ground
        around = F.max_pool2d(torch.from_numpy(part[None].astype(np.float32)), 3, 1, 1)[0].numpy() > 0
        ink = np.clip((x - ground) @ axis / (axis @ axis), 0, 1) * around
        top, bottom, left, right = box = _box(part)
        objects.append((box, colour, framed(ink[top:bottom, left:right], _GLYPH, _FRAME)))
    return objects


def _box(part: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = (np.flatnonzero(part.any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


def _joined(parts: list[np.ndarray]) -> list[np.ndarray]:
    """Join the pieces of broken digits: a piece goes to another with which it is no larger than one digit."""
    whole: list[np.ndarray] = []
    for part in sorted(parts, key=np.sum, reverse=True):
        for place, other in enumerate(whole):
            if _longer(part | other) <= (_SMALL if _longer(other) <= _SMALL else _LARGE):
                whole[place] = other | part
                break
        else:
            whole.append(part)
    return whole


def _longer(part: np.ndarray) -> int:
    top, bottom, left, right = _box(part)
    return max(bottom - top, right - left)


def _colour(pixels: np.ndarray, ground: np.ndarray) -> str:
    """Return the colour on whose line from the ground pixels (n, 3) lie best."""

    def beside(name: str) -> float:
        axis = COLOURS[name] - ground
        share = np.clip((pixels - ground) @ axis / (axis @ axis), 0, 1.1)
        return float(np.square(pixels - ground - share[:, None] * axis).sum())

    return min(COLOURS, key=beside)


@lru_cache(maxsize=1)
def _reader() -> tuple[Tensor, Tensor]:
    """Return the filters (F, 1, w, w) and the weights (D + 1, 10) with which digits are read.

    Filters are patches of the digits (Coates, Ng & Lee 2011, "An analysis of single-layer networks"), the weights those
    of ridge regression.
    """
    glyphs = [glyph for each in glyphs_of(BUILTIN_DIGITS, "train") for glyph in each]
    labels = torch.tensor([digit for digit, each in enumerate(glyphs_of(BUILTIN_DIGITS, "train")) for _ in each])
    longer = seeds.generator(SEED, "scenes: size of a digit to learn from").integers(12, 25, len(glyphs))
    small = [framed(glyph, size, size) for glyph, size in zip(glyphs, longer.tolist(), strict=True)]
    images = np.stack([framed(image, _GLYPH, _FRAME) for image in small])
    draw = seeds.generator(SEED, "scenes: filters")
    windows = np.lib.stride_tricks.sliding_window_view(images, (_WIDTH, _WIDTH), axis=(1, 2))
    rows = draw.integers(0, [len(images), *windows.shape[1:3]], (20 * _FILTERS, 3))
    patches = windows[tuple(rows.T)].reshape(len(rows), -1)
    patches = patches[patches.std(1) > 0.1][:_FILTERS]
    patches = patches - patches.mean(1, keepdims=True)
    patches /= np.linalg.norm(patches, axis=1, keepdims=True)
    filters = torch.from_numpy(patches).float().reshape(-1, 1, _WIDTH, _WIDTH)
    features = _features(images, filters)
    wanted = F.one_hot(labels, len(DIGITS)).float() * 2 - 1
    gram = features.T @ features + _PENALTY * torch.eye(features.shape[1])
    return filters, torch.linalg.solve(gram.double(), (features.T @ wanted).double()).float()


def _features(images: np.ndarray, filters: Tensor) -> Tensor:
    """Return pooled responses and a one of glyphs (N, 24, 24), float32 (N, D + 1)."""
    pooled = []
    for some in torch.from_numpy(images).float()[:, None].split(1024):
        response = F.relu(F.conv2d(some, filters, padding=2) - 0.5)
        pooled.append(F.pad(F.avg_pool2d(response, 5, 4).flatten(1), (0, 1), value=0.1))
    return 10 * torch.cat(pooled)


def _read(glyphs: np.ndarray) -> Tensor:
    filters, weights = _reader()
    return (_features(glyphs, filters) @ weights).argmax(1)
