"""`ldm edit`: images in, variations of them out: all of an image, a part of it, or by the noise that it came from."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import torch

from ..core.conditioning.conditioning import Request
from ..core.diffusion import conditions, editing
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.files import sha256_file
from ..core.images.dataset import ImageSource
from ..core.images.decode import as_tensor, decode, to_training, write_png
from ..core.images.given import open_given, require_readable
from ..core.images.grid import grid, scale_for
from ..core.images.masks import Masked, boxed, masked_by, outpainted
from ..core.metrics.image import psnr
from ..core.pipeline.drawing import (
    DenoisingGenerator,
    Images,
    OpenedDenoiser,
    draw,
    folder_label,
    image_seeds,
    open_model,
)
from ..core.pipeline.editing import Change, Inversion, edit_of, keep_known, requested
from ..core.pipeline.loading import require_denoising
from ..core.pipeline.model import Model
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, occupied, output_folder
from ..core.system.precision import Policy
from .configs import Edit

GRID_IMAGES = 20  # of `grid.png`, at most
RECONSTRUCTION = "reconstruction"
INVERTED = "inverted"  # its title


@dataclass(frozen=True)
class Variant:
    """One of the edits of every image: its title, its row of the conditions, its seed, and what it does."""

    title: str
    row: int
    seed: int
    change: Change


@dataclass(frozen=True)
class Inputs:
    """The images to edit and the mask, read as squares when their turn comes."""

    config: Edit
    source: ImageSource
    mask: np.ndarray | None
    size: int

    def square(self, index: int) -> Masked:
        """Return an image and its mask. Raises DataError naming it where it cannot be decoded, or lacks the box."""
        picture, size = self.source.picture(index), self.size
        if self.config.box is not None:
            return boxed(picture, self.config.box, size, self.source.names[index])
        if self.config.outpaint is not None:
            return outpainted(picture, self.config.margins, size)
        if self.mask is not None:
            return masked_by(picture, self.mask, size)
        return Masked(to_training(picture, size), np.full((size, size), 255, dtype=np.uint8))


def run(config: Edit, progress: Progress) -> Outcome:
    """Draw the edits of every image. Returns their folder."""
    # The images, the model and its conditions, checked before anything is loaded or written.
    source = open_given(config.images)
    opened = open_model(_without_guidance(config))
    if config.inversion:
        require_denoising(opened.source)
    request = requested(opened.conditioning, config.asked)
    inputs = Inputs(config, source, _mask_of(config), opened.source.metadata["image_size"])
    described: dict[str, dict[str, Any]] = {"images": {"path": config.images[0], "fingerprint": source.fingerprint()}}
    if config.mask is not None:
        described["mask"] = {"path": config.mask.as_posix(), "fingerprint": sha256_file(config.mask)}

    label = config.label or folder_label(config, PurePath(config.images[0]).stem, described)
    folder = output_folder(config, label)
    with occupied(folder, config.machine) as policy:
        work = claim(folder, config, {**opened.inputs(folder), **described}, progress)
        overview = folder / "grid.png"
        if work.complete:
            return Outcome(folder, already_complete=True, pictures=[overview])

        # What is drawn: of each image all its variants, together with those of others of the same strength.
        require_readable(source, progress)
        generator = opened.generator(config, policy)
        model = generator.model
        request, variants = _variants(config, opened, request, model)
        images = _images(config, inputs, request, variants, generator)
        hashes, speed = draw(images, config.batch_size, folder, progress)
        if not processes.world().is_main:
            return Outcome(folder)

        # The strip of each image, the numbers, and the manifest, the last file.
        records = _records(model, images, request, variants, source)
        errors = _errors(inputs, model, variants, records, folder, policy) if config.inversion else {}
        strips = _write_strips(inputs, request, variants, images.names, folder)
        metadata = {
            "images": records,
            "strips": strips,
            "sampling": opened.recorded(config.seed),
            "image_size": inputs.size,
            **errors,
        }
        work.commit([*images.names, *strips, overview.name], metadata, hashes, speed)

    # What the command shows.
    seen = {each["strength"]: each["snr_db"] for each in records}
    strengths = ", ".join(f"{t:g}{'' if snr is None else f' ({snr:.1f} dB)'}" for t, snr in seen.items())
    summary = {"images": f"{len(images.names):,} of {len(source):,}", "strengths (signal to noise)": strengths}
    if errors:
        summary["PSNR"] = f"{errors['psnr']:.1f} dB, of the autoencoder alone {errors['psnr_of_autoencoder']:.1f} dB"
    return Outcome(folder, summary=summary, pictures=[overview, *(folder / name for name in strips[:1])])


def _without_guidance(config: Edit) -> Edit:
    """Return the settings without guidance where there is no class to guide towards."""
    if config.asked or config.away_from is not None:
        return config
    if config.cfg not in (None, 1.0) or config.cfg_paper:
        raise ConfigError("`cfg` guides towards a class, and none is given", "add `classes`, or leave it out")
    return config.model_copy(update={"cfg": 1.0, "cfg_paper": None})


def _mask_of(config: Edit) -> np.ndarray | None:
    """Read the mask: uint8 (H, W), the mean of its colours."""
    if config.mask is None:
        return None
    if not config.mask.is_file():
        raise ConfigError(f"`mask={config.mask}` is not a file", "give a picture")
    levels = decode(config.mask.read_bytes(), str(config.mask)).mean(axis=2).round().astype(np.uint8)
    return 255 - levels if config.invert_mask else levels


def _variants(config: Edit, opened: OpenedDenoiser, request: Request, model: Model) -> tuple[Request, list[Variant]]:
    """Return the variants of every image, and the conditions that they count: with that of the image itself, if any."""
    # Strengths as times of the sampler's grid.
    how = opened.sampling
    times = model.grid(how.num_steps, how.spacing, how.shift)
    if config.start_index is not None:
        if max(config.start_index) >= len(times):
            raise ConfigError(
                f"`start_index={max(config.start_index)}` is beyond the last step, {len(times) - 1}", "give less"
            )
        strengths = [float(times[place]) for place in config.start_index]
    else:
        strengths = [float(editing.times_from(times, strength)[0]) for strength in config.strengths]

    # With inversion, first the reconstruction under the image's own condition.
    change = Change(1.0, config.masked, config.resample, config.jump)
    variants = []
    if config.inversion:
        own = requested(opened.conditioning, {"classes": config.from_class} if config.from_class else {})
        own = replace(own, cond=conditions.index(own.cond, [0]), titles=own.titles[:1], records=own.records[:1])
        request = Request(
            conditions.cat(own.cond, request.cond) if own.cond else {},
            (own.titles[0], *request.titles),
            (own.records[0], *request.records),
        )
        change = replace(change, inversion=Inversion(own.cond, config.refine))
        whole = replace(change, strength=max(strengths), unguided=True)
        variants = [Variant(INVERTED, 0, config.seed, whole)]
    for row in range(len(variants), len(request.titles)):
        for seed in image_seeds(config, 1)[0].tolist():
            for strength in strengths:
                variants.append(Variant(f"t = {strength:g}", row, seed, replace(change, strength=strength)))
    return request, variants


def _images(
    config: Edit, inputs: Inputs, request: Request, variants: Sequence[Variant], generator: DenoisingGenerator
) -> Images:
    """Return what is drawn: row r is variant r % V of image r // V."""
    count, each = len(inputs.source), len(variants)
    square = lru_cache(maxsize=2 * config.batch_size)(inputs.square)
    changes = list(dict.fromkeys((v.change.strength, v.change.unguided) for v in variants))
    groups = np.array([changes.index((v.change.strength, v.change.unguided)) for v in variants])

    def pixels(rows: np.ndarray) -> np.ndarray:
        squares, chosen = [square(row // each) for row in rows], [variants[row % each] for row in rows]
        cond = conditions.index(request.cond, [variant.row for variant in chosen])
        change = chosen[0].change
        if change.inversion is not None:
            own = conditions.index(change.inversion.cond, [0] * len(rows))
            change = replace(change, inversion=replace(change.inversion, cond=own))
        edit = edit_of(generator.model, generator.policy, squares, change)
        drawn = generator.draw(cond, np.array([variant.seed for variant in chosen]), edit=edit)
        return keep_known(squares, drawn, config.feather) if config.masked and config.paste else drawn

    names = [f"{image:06d}-{variant:03d}.png" for image in range(count) for variant in range(each)]
    return Images(names, pixels, np.tile(groups, count))


def _records(
    model: Model, images: Images, request: Request, variants: Sequence[Variant], source: ImageSource
) -> list[dict[str, Any]]:
    """Return what the manifest records of each image that was drawn."""
    records = []
    for row, name in enumerate(images.names):
        image, variant = divmod(row, len(variants))
        chosen = variants[variant]
        decibels = 10 / np.log(10) * float(model.schedule.log_snr(torch.tensor(chosen.change.strength).double()))
        records.append(
            {
                "file": name,
                "image": source.names[image],
                **request.records[chosen.row],
                "seed": chosen.seed,
                "strength": chosen.change.strength,
                "snr_db": round(decibels, 3) if np.isfinite(decibels) else None,
                **({RECONSTRUCTION: True} if chosen.change.unguided else {}),
            }
        )
    return records


def _errors(
    inputs: Inputs,
    model: Model,
    variants: Sequence[Variant],
    records: Sequence[dict[str, Any]],
    folder: Path,
    policy: Policy,
) -> dict[str, float]:
    """Return the mean PSNR of the reconstructions, which is added to their records, and of the autoencoder alone."""
    found: dict[str, list[float]] = {"psnr": [], "psnr_of_autoencoder": []}
    for image in range(len(inputs.source)):
        record = records[image * len(variants)]
        square = inputs.square(image).image[None]
        whole = as_tensor(square)
        record["psnr"] = float(psnr(as_tensor(_read(folder / record["file"])[None]), whole))
        found["psnr"].append(record["psnr"])
        decoded = model.decode(model.encode(square, policy), policy)
        found["psnr_of_autoencoder"].append(float(psnr(as_tensor(decoded), whole)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def _write_strips(
    inputs: Inputs, request: Request, variants: Sequence[Variant], names: Sequence[str], folder: Path
) -> list[str]:
    """Write a strip for each image, a row for each class and seed, and `grid.png`: the first rows of some images."""
    columns = list(dict.fromkeys(variant.title for variant in variants))
    rows = list(dict.fromkeys((v.row, v.seed) for v in variants if v.title != INVERTED))
    place = {(v.row, v.seed, v.title): number for number, v in enumerate(variants)}
    seeds = len({seed for _, seed in rows}) > 1
    titles = [request.titles[row] + (f", seed {seed}" if seeds else "") for row, seed in rows]
    strips, first = [], []
    for image in range(len(inputs.source)):
        masked = inputs.square(image)
        shown = [masked.image]
        if inputs.config.masked:
            shown.append((masked.image * 0.6 + masked.mask[:, :, None] * 0.4).round().astype(np.uint8))
        drawn = [_read(folder / name) for name in names[image * len(variants) :][: len(variants)]]
        cells = []
        for row, seed in rows:
            in_row = [drawn[0 if t == INVERTED else place[row, seed, t]] for t in columns]
            cells += [*shown, *in_row]
        heads = ["image", *(["mask"] if len(shown) > 1 else []), *columns]
        scale = scale_for(masked.image[None])
        strip = grid(np.stack(cells), len(heads), row_labels=titles, column_labels=heads, scale=scale)
        strips.append(f"strip-{image:06d}.png")
        write_png(folder / strips[-1], strip)
        first += cells[: len(heads)] if image < GRID_IMAGES else []
    write_png(folder / "grid.png", grid(np.stack(first), len(heads), column_labels=heads, scale=scale))
    return strips


def _read(path: Path) -> np.ndarray:
    return decode(path.read_bytes(), str(path))
