"""What `ldm edit` draws: the variants of every image, and what each carries."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import PurePath
from typing import Any

import numpy as np

from ...core.conditioning.conditioning import Request
from ...core.diffusion import conditions, editing
from ...core.files import sha256_file
from ...core.images.dataset import ImageSource
from ...core.pipeline.again import parameters_of
from ...core.pipeline.drawing import DenoisingGenerator, image_seeds
from ...core.pipeline.editing import Change, Inversion, Kept, edited, keep_known
from ...core.pipeline.generator import Generator, OnStep, Opened
from ...core.pipeline.token_drawing import TokenGenerator
from ...core.pipeline.writing import Images
from ..configs import Edit
from .inputs import Inputs

INVERTED = "inverted"  # the title of a reconstruction
RECONSTRUCTION = "reconstruction"


@dataclass(frozen=True)
class Variant:
    """One of the edits of every image: its title, its row of the conditions, its seed, and what it does."""

    title: str
    row: int
    seed: int
    change: Change | Kept


def variants_of(
    config: Edit, request: Request, own: Request | None, generator: Generator
) -> tuple[Request, list[Variant]]:
    """Return the variants of every image, and the conditions that they count.

    own: the condition of the image itself, for the inversion; the first of those conditions.
    """
    if isinstance(generator, TokenGenerator):
        changes: list[tuple[str, Change | Kept]] = [
            (f"{scales} scales kept", Kept(scales, config.masked))
            for scales in config.kept_of(len(generator.network.config.scales))
        ]
        return request, _all_of(config, request, changes, 0)

    # Strengths as times of the sampler's grid.
    assert isinstance(generator, DenoisingGenerator), "checked"
    how = generator.sampling
    times = generator.model.grid(how.num_steps, how.spacing, how.shift)
    if config.start_index is not None:
        strengths = [float(times[place]) for place in config.start_index]
    else:
        strengths = [float(editing.times_from(times, strength)[0]) for strength in config.strengths]

    # With inversion, first the reconstruction under the image's own condition.
    change = Change(1.0, config.masked, config.resample, config.jump)
    first = []
    if own is not None:
        request = Request(
            conditions.cat(own.cond, request.cond) if own.cond else {},
            (*own.titles, *request.titles),
            (*own.records, *request.records),
        )
        change = replace(change, inversion=Inversion(own.cond, config.refine))
        whole = replace(change, strength=max(strengths), unguided=True)
        first = [Variant(INVERTED, 0, config.seed, whole)]
    changes = [(f"t = {strength:.3g}", replace(change, strength=strength)) for strength in strengths]
    return request, first + _all_of(config, request, changes, len(first))


def _all_of(config: Edit, request: Request, changes: Sequence[tuple[str, Change | Kept]], first: int) -> list[Variant]:
    """Return the changes of each condition from the first on, by each seed."""
    return [
        Variant(title, row, seed, change)
        for row in range(first, len(request.titles))
        for seed in image_seeds(config, 1)[0].tolist()
        for title, change in changes
    ]


def images_to_draw(
    config: Edit,
    inputs: Inputs,
    request: Request,
    variants: Sequence[Variant],
    generator: Generator,
    on_step: OnStep | None,
) -> Images:
    """Return what is drawn: row r is variant r % V of image r // V."""
    count, each = len(inputs.source), len(variants)
    square = lru_cache(maxsize=2 * config.batch_size)(inputs.square)
    keys = list(dict.fromkeys(variant.change.key for variant in variants))
    groups = np.array([keys.index(variant.change.key) for variant in variants])

    def pixels(rows: np.ndarray) -> np.ndarray:
        squares, chosen = [square(row // each) for row in rows], [variants[row % each] for row in rows]
        cond = conditions.index(request.cond, [variant.row for variant in chosen])
        seeds = np.array([variant.seed for variant in chosen])
        drawn = edited(generator, squares, cond, seeds, chosen[0].change, on_step)
        return keep_known(squares, drawn, config.feather) if config.masked and config.paste else drawn

    names = [f"{image:06d}-{variant:03d}.png" for image in range(count) for variant in range(each)]
    return Images(names, pixels, np.tile(groups, count))


def parameters_of_edits(
    config: Edit, opened: Opened, request: Request, variants: Sequence[Variant], source: ImageSource
) -> Callable[[int], dict[str, Any]]:
    """Return what each image carries: of an edit also the settings of its change, and what it was made of."""
    names = ["outpaint", "box", "invert_mask", "resample", "jump", "feather", "paste", "inversion", "refine"]
    settings = {name: value for name, value in config.model_dump(mode="json", include={*names}).items() if value}
    if config.inversion:
        settings |= {"from_class": opened.conditioning.recall(request.records[0]).get(opened.conditioning.asks)}
    own = {} if config.mask is None else {"mask": _origin(config.mask.name, sha256_file(config.mask))}
    hashes = [found.hex() for found in source.content_hashes()]

    def parameters(row: int) -> dict[str, Any]:
        image, variant = divmod(row, len(variants))
        chosen = variants[variant]
        record = request.records[chosen.row]
        asked = opened.conditioning.recall(record)
        of_change = _setting_of(chosen.change)
        drawn = parameters_of(opened, config.command, record, asked, chosen.seed, **settings, **of_change)
        origins = {"image": _origin(PurePath(source.names[image]).name, hashes[image]), **own}
        return {**drawn, "origins": origins}

    return parameters


def _origin(name: str, digest: str) -> dict[str, str]:
    return {"name": name, "sha256": digest}


def _setting_of(change: Change | Kept) -> dict[str, Any]:
    """Return the settings of which a change is one value, and whether it is the reconstruction."""
    if isinstance(change, Kept):
        return {"keep_scales": [change.scales]}
    return {"strength": [change.strength], **({RECONSTRUCTION: True} if change.unguided else {})}
