"""What `ldm edit` records and shows of what it drew."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...core.conditioning.conditioning import Request
from ...core.images.dataset import ImageSource
from ...core.images.decode import as_tensor, decode_picture, write_png
from ...core.images.grid import grid, scale_for
from ...core.images.loader import Preparation
from ...core.metrics.image import psnr
from ...core.pipeline.drawing import DenoisingGenerator
from ...core.pipeline.editing import Kept
from ...core.pipeline.generator import Generator
from ...core.pipeline.writing import Images
from .inputs import Inputs
from .variants import INVERTED, RECONSTRUCTION, Variant

GRID_IMAGES = 20  # of `grid.png`, at most


def records_of(
    generator: Generator, images: Images, request: Request, variants: Sequence[Variant], source: ImageSource
) -> list[dict[str, Any]]:
    """Return what the manifest records of each image that was drawn."""
    records = []
    for row, name in enumerate(images.names):
        image, variant = divmod(row, len(variants))
        chosen = variants[variant]
        record = {"file": name, "image": source.names[image], **request.records[chosen.row], "seed": chosen.seed}
        if isinstance(chosen.change, Kept):
            record["kept_scales"] = chosen.change.scales
        else:
            assert isinstance(generator, DenoisingGenerator), "of a denoiser"
            time = torch.tensor(chosen.change.strength).double()
            decibels = 10 / np.log(10) * float(generator.model.schedule.log_snr(time))
            record["strength"] = chosen.change.strength
            record["snr_db"] = round(decibels, 3) if np.isfinite(decibels) else None
            record |= {RECONSTRUCTION: True} if chosen.change.unguided else {}
        records.append(record)
    return records


def extent(records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Return how much was changed, for the summary."""
    if "kept_scales" in records[0]:
        return {"scales kept": ", ".join(str(kept) for kept in dict.fromkeys(each["kept_scales"] for each in records))}
    seen = {each["strength"]: each["snr_db"] for each in records}
    strengths = ", ".join(f"{t:.3g}{'' if snr is None else f' ({snr:.1f} dB)'}" for t, snr in seen.items())
    return {"strengths (signal to noise)": strengths}


def errors_of(
    inputs: Inputs,
    generator: Generator,
    variants: Sequence[Variant],
    records: Sequence[dict[str, Any]],
    folder: Path,
) -> dict[str, float]:
    """Return the mean PSNR of the reconstructions, which is added to their records, and of the autoencoder alone."""
    assert isinstance(generator, DenoisingGenerator), "which inverts"
    found: dict[str, list[float]] = {"psnr": [], "psnr_of_autoencoder": []}
    for image in range(len(inputs.source)):
        record = records[image * len(variants)]
        square = inputs.square(image).image[None]
        whole = as_tensor(square)
        record["psnr"] = float(psnr(as_tensor(_read(folder / record["file"], inputs.prepare)[None]), whole))
        found["psnr"].append(record["psnr"])
        decoded = generator.decode(generator.encode(square))
        found["psnr_of_autoencoder"].append(float(psnr(as_tensor(decoded), whole)))
    return {name: float(np.mean(values)) for name, values in found.items()}


def write_strips(
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
        drawn = [_read(folder / name, inputs.prepare) for name in names[image * len(variants) :][: len(variants)]]
        cells = []
        for row, seed in rows:
            in_row = [drawn[0 if t == INVERTED else place[row, seed, t]] for t in columns]
            cells += [*shown, *in_row]
        heads = ["image", *(["mask"] if len(shown) > 1 else []), *columns]
        scale = scale_for(masked.image[None])
        strip = grid(np.stack(cells), len(heads), row_labels=titles, column_labels=heads, scale=scale, lines=6)
        strips.append(f"strip-{image:06d}.png")
        write_png(folder / strips[-1], strip)
        first += cells[: len(heads)] if image < GRID_IMAGES else []
    write_png(folder / "grid.png", grid(np.stack(first), len(heads), column_labels=heads, scale=scale))
    return strips


def _read(path: Path, prepare: Preparation) -> np.ndarray:
    return prepare.square(decode_picture(path.read_bytes(), str(path), prepare.behind))
