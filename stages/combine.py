"""`ldm anagram`, `ldm hybrid`, `ldm interpolate`: two conditions in one image, or the way from one to the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..core import seeds
from ..core.conditioning.conditioning import Request
from ..core.diffusion import conditions, views
from ..core.diffusion.conditions import Cond
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.images.decode import as_tensor, as_uint8, decode, write_png
from ..core.images.grid import animation, grid, scale_for
from ..core.pipeline.again import like, parameters_of
from ..core.pipeline.drawing import DenoisingGenerator, OpenedDenoiser, folder_label, image_seeds, open_model
from ..core.pipeline.editing import open_unguided, requested
from ..core.pipeline.generation import Sampling, Start
from ..core.pipeline.model import one_condition
from ..core.pipeline.settings import Seeded
from ..core.pipeline.writing import PREVIEW, Images, draw, kept_latents, preview
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, occupied, output_folder
from ..core.runs.schemas import size_of, size_recorded
from ..core.system.transfer import to_device
from .configs.combining import Anagram, Combination, Hybrid, Interpolate

SHOWN = 10  # images of `grid.png`, at most


def run(config: Combination, progress: Progress) -> Outcome:
    """Draw the images of two conditions. Returns their folder."""
    # What is asked for, checked before anything is loaded or written.
    if config.like is not None:
        config = like(config.like, config, **({"num": 1} if isinstance(config, Seeded) else {}))
    if config.cache > 1:
        raise ConfigError(f"`cache={config.cache}`: two conditions are drawn at every step", "leave it out")
    unguided = "" in config.pair and config.away_from is None
    opened = open_unguided(open_model, config) if unguided else open_model(config)
    opened = replace(opened, sampling=_without_learned_variance(opened.sampling))
    pair = [_condition(opened, text, config.asks) for text in config.pair]
    for note in dict.fromkeys(note for request in pair for note in request.notes):
        progress.warn(note)
    titles = [request.titles[0] for request in pair]
    own_seeds = _seeds(config)
    if isinstance(config, Anagram):
        _check_view(config, opened.source.metadata["latent_shape"])

    folder = output_folder(config, config.label or folder_label(config, config.title, {}))
    with occupied(folder, config.machine) as policy:
        work = claim(folder, config, opened.inputs(folder), progress)
        pictures = [folder / "grid.png"]
        if work.complete:
            return Outcome(folder, already_complete=True, pictures=pictures)

        # Draw the images, all by the same wrapper of the denoiser.
        generator, on_step = opened.generator(config, policy), preview(folder, config.preview_every)
        latents = kept_latents(config, opened)
        generator = latents.of(generator) if latents is not None else generator

        def pixels(rows: np.ndarray) -> np.ndarray:
            first, second = (conditions.index(request.cond, [0] * len(rows)) for request in pair)
            second = generator.whole(second, len(rows))

            def edit(start: Start) -> Start:
                other = to_device(conditions.index(second, start.rows), policy.device)
                return _EDITS[type(config)](config, generator, start, other, rows[start.rows])

            return generator.draw(first, own_seeds[rows], on_step, edit)

        def parameters(row: int) -> dict[str, Any]:
            records = [request.records[0] for request in pair]
            classes = [_text(opened.conditioning.recall(record)) for record in records]
            how = {**config.own_settings(classes), **({"frame": row} if isinstance(config, Interpolate) else {})}
            return parameters_of(opened, config.command, {"conditions": records}, {}, int(own_seeds[row]), **how)

        names = [f"{number:06d}.png" for number in range(len(own_seeds))]
        images = Images(names, pixels, None, parameters if config.metadata else None, latents)
        hashes, speed = draw(images, config.batch_size, folder, progress)
        if not processes.world().is_main:
            return Outcome(folder)
        (folder / PREVIEW).unlink(missing_ok=True)

        # One process draws the pictures and writes the manifest, the last file.
        outputs = [*images.files, *_write_pictures(config, folder, names, titles)]
        metadata = {
            "images": [
                {"file": name, "conditions": [request.records[0] for request in pair], "seed": int(seed)}
                for name, seed in zip(names, own_seeds, strict=True)
            ],
            "sampling": opened.recorded(config.seed),
            **size_recorded(size_of(opened.source.metadata)),
        }
        work.commit(outputs, metadata, hashes, speed)

    summary = {"images": f"{len(names):,} of {' and '.join(dict.fromkeys(titles))}, cfg {opened.sampling.cfg:g}"}
    return Outcome(folder, summary=summary, pictures=pictures)


def _write_pictures(config: Combination, folder: Path, names: list[str], titles: list[str]) -> list[str]:
    """Write `grid.png` of the first images; of a way between two conditions all of it, also animated."""
    along = isinstance(config, Interpolate)
    drawn = np.stack([decode((folder / name).read_bytes(), name) for name in names[: None if along else SHOWN]])
    write_png(folder / "grid.png", _PICTURES[type(config)](config, drawn, titles))
    if not along:
        return ["grid.png"]
    animation([*drawn, *drawn[-2:0:-1]], folder / "animation.webp", hold=80)
    return ["grid.png", "animation.webp"]


def _text(asked: Mapping[str, Any]) -> str:
    """Return the class or prompt that asks for one condition; empty for none."""
    text = next(iter(asked.values()), "")
    return text if isinstance(text, str) else str(text[0])


def _condition(opened: OpenedDenoiser, text: str, asks: str | None) -> Request:
    """Return the one condition that a text names; without a text, the null, or that of a model without any.

    asks: the setting that gave it; None for one that takes conditions of any kind.
    """
    if not text:
        return requested(opened, {})
    return one_condition(opened.conditioning, asks or opened.conditioning.asks, text, asks)


def _seeds(config: Combination) -> np.ndarray:
    """Return the seed of each image, int64."""
    if isinstance(config, Interpolate):
        return np.full(config.frames, config.seed, dtype=np.int64)
    assert isinstance(config, Seeded), "the others"
    return image_seeds(config, 1)[0]


def _without_learned_variance(sampling: Sampling) -> Sampling:
    """Return the sampling with a fixed variance: the learned one is of one condition, not of two.

    Raises ConfigError where a classifier would guide DDPM's steps: towards one of the two.
    """
    if sampling.sampler != "ddpm":
        return sampling
    if sampling.classifier_scale:
        raise ConfigError("`classifier_scale` guides DDPM's steps to one condition, and there are two", "use `cfg`")
    return replace(sampling, variance="posterior") if sampling.variance != "beta" else sampling


def _check_view(config: Anagram, latent_shape: Sequence[int]) -> None:
    """Refuse a view that latents of this size do not have."""
    view, (_, *sides) = views.VIEWS[config.view], latent_shape
    for side in sides:
        if side % view.pieces:
            raise ConfigError(
                f"`view={config.view}`: {side} latent pixels do not divide into its pieces", "use another"
            )
    if view.apply(torch.empty(1, *latent_shape)).shape[1:] != tuple(latent_shape):
        raise ConfigError(f"`view={config.view}`: images that are not square look other when turned", "use rotate180")


def _anagram(config: Anagram, generator: DenoisingGenerator, start: Start, other: Cond, rows: np.ndarray) -> Start:
    view, autoencoder = views.VIEWS[config.view], generator.model.autoencoder
    if config.in_pixels(autoencoder.keeps_pixels):

        def seen_by(change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
            return lambda x0: generator.encode(as_uint8(change(as_tensor(generator.decode(x0)))))

        whole = seen_by(view.apply), seen_by(view.undo)
        denoise = views.anagram_of_decoded(start.denoise, view, other, start.schedule, *whole)
    else:
        # Negative about the middle between black and white; a latent has none, so about its mean.
        middle = -autoencoder.latent_mean / autoencoder.latent_std if autoencoder.keeps_pixels else torch.zeros(1)
        centre = middle.view(-1, 1, 1).to(start.x)
        denoise = views.anagram(start.denoise, view, other, start.schedule, centre)
    return replace(start, denoise=denoise)


def _hybrid(config: Hybrid, generator: DenoisingGenerator, start: Start, other: Cond, rows: np.ndarray) -> Start:
    scale = generator.model.autoencoder.downsampling
    sigma = (config.sigma or start.x.shape[-1] * scale / 32) / scale
    return replace(start, denoise=views.hybrid(start.denoise, other, sigma))


def _between(config: Interpolate, generator: DenoisingGenerator, start: Start, other: Cond, rows: np.ndarray) -> Start:
    share = torch.from_numpy(rows / (config.frames - 1)).to(start.x)
    x, denoise = start.x, start.denoise
    if config.to_seed is not None:
        end = seeds.normal(config.to_seed, "initial noise", [0], tuple(start.x.shape[1:])).to(start.x)
        x = views.slerp(x, end.expand_as(x), share)
    if config.pair[0] != config.pair[1]:
        denoise = views.between(denoise, other, share.view(-1, 1, 1, 1))
    return replace(start, x=x, denoise=denoise)


_EDITS: dict[type, Callable[..., Start]] = {Anagram: _anagram, Hybrid: _hybrid, Interpolate: _between}


def _both_ways(config: Anagram, drawn: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """Show the images upright, and below through the view."""
    view = views.VIEWS[config.view]
    viewed = as_uint8(view.of(as_tensor(drawn), torch.zeros(1)))
    shown = np.concatenate([drawn, viewed])
    return grid(shown, len(drawn), row_labels=[titles[0], f"{titles[1]}, {config.view}"], scale=scale_for(drawn))


def _both_sizes(config: Hybrid, drawn: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    """Show the images in full size, and below a half and a quarter of it."""
    tall, wide = (side * scale_for(drawn, 128) for side in drawn.shape[1:3])
    rows = []
    for part in (1, 2, 4):
        size = wide // part, tall // part
        small = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC) for image in drawn]
        edges = [(side - side // part) // 2 for side in (tall, wide)]
        down, across = ((edge, side - side // part - edge) for edge, side in zip(edges, (tall, wide), strict=True))
        around = ((0, 0), down, across, (0, 0))
        rows.append(np.pad(np.stack([np.array(each) for each in small]), around, constant_values=255))
    labels = [f"{titles[0]}: near", "", f"{titles[1]}: far"]
    return grid(np.concatenate(rows), len(drawn), row_labels=labels)


def _strip(config: Interpolate, drawn: np.ndarray, titles: Sequence[str]) -> np.ndarray:
    return grid(drawn, min(len(drawn), 16), scale=scale_for(drawn))


_PICTURES: dict[type, Callable[..., np.ndarray]] = {Anagram: _both_ways, Hybrid: _both_sizes, Interpolate: _strip}
