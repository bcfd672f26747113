"""`ldm sample`: a denoiser, classes and seeds in, pictures out."""

import shlex
from pathlib import Path

import numpy as np
import torch

from ..core.conditioning.conditioning import Conditioning, Request
from ..core.conditioning.registry import recorded
from ..core.diffusion import conditions
from ..core.diffusion.conditions import Cond
from ..core.distributed import processes
from ..core.files import read_plain, sha256_json
from ..core.images.decode import decode, write_png
from ..core.images.grid import animation, grid, scale_for
from ..core.pipeline.drawing import Images, consecutive, draw, open_model
from ..core.pipeline.generation import Sampling, chunk_size, generate, sampling_of
from ..core.pipeline.model import Model
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.settings.fields import identity
from ..core.system.precision import Policy
from .configs import Sample

GRID_CLASSES, GRID_PER_CLASS = 20, 10
STRIP_IMAGES, STRIP_STEPS = 4, 10


def run(config: Sample, progress: Progress) -> Outcome:
    """Draw images of the chosen classes. Returns their folder."""
    # What is asked for, checked against the denoiser's manifest before anything is loaded or written.
    opened = open_model(config)
    source, sampling, conditioning = opened.source, opened.sampling, opened.conditioning
    request = conditioning.request(config.asked)
    seed_indices = consecutive(config.seed, config.num * len(request.titles))

    # The folder of these settings; a label is its name.
    label = config.label or _label(config)
    folder = output_folder(config, label)
    with occupied(folder, config.machine) as policy:
        # Nothing to do where the same settings and inputs have made this folder.
        work = claim(folder, config, opened.inputs(folder))
        next_commands = [f"{command_line('eval', config)} --samples {shlex.quote(label)}"]
        pictures = [folder / "grid.png"] + ([folder / "progressive.png"] if config.progressive else [])
        if work.complete:
            return Outcome(folder, already_complete=True, pictures=pictures, next_commands=next_commands)

        # Load the networks; draw `num` images of each class, all with consecutive seeds.
        model = opened.load(config, policy)
        rows = np.repeat(np.arange(len(request.titles)), config.num)  # each image's row of the request
        cond = conditions.index(request.cond, rows)
        names = [f"{seed:06d}.png" for seed in seed_indices]
        hashes, speed = draw(model, Images(names, cond, seed_indices), sampling, config, policy, folder, progress)

        # One process draws the pictures and writes the manifest, the last file.
        if not processes.world().is_main:
            return Outcome(folder)
        outputs = [*names, _write_grid(folder, names, rows, request)]
        if config.progressive:
            outputs += _write_path(model, cond, seed_indices, sampling, policy, folder)
        metadata = {
            "images": [
                {"file": name, **request.records[row], "seed": int(seed)}
                for name, row, seed in zip(names, rows, seed_indices, strict=True)
            ],
            **recorded(conditioning),
            "sampling": opened.recorded(config.seed),
            "image_size": source.metadata["image_size"],
        }
        work.commit(outputs, metadata, hashes, speed)

    # What the command shows.
    how = f"{config.sampler}, {sampling.num_steps} steps, cfg {sampling.cfg:g}"
    summary = {"images": f"{len(names):,} of {_what(request, conditioning)}, {how}"}
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands)


def _what(request: Request, conditioning: Conditioning) -> str:
    """Return what images were drawn of, in words."""
    several = "classes" if conditioning.class_names else "conditions"
    return f"{len(request.titles)} {several}" if len(request.titles) > 1 else request.titles[0]


def _label(config: Sample) -> str:
    """Return a readable folder name of the settings, different for different settings."""
    classes = "".join(c if c.isalnum() or c in "-," else "_" for c in config.classes)[:40]
    steps = config.steps if config.steps is not None else ""
    scale = sampling_of(config, has_null=True).cfg
    digest = sha256_json(identity(config))[:6]
    best = "_best" if config.checkpoint == "best" else ""
    return f"class-{classes}{best}_cfg-{scale:g}_{config.sampler}{steps}_seed-{config.seed}_{digest}"


def _write_grid(folder: Path, names: list[str], rows: np.ndarray, request: Request) -> str:
    """Write `grid.png`: a labelled row for each class, or the images of a single one in a square."""
    # One class: up to 100 images in a square. Several: a row each.
    titles = request.titles[:GRID_CLASSES]
    if len(titles) == 1:
        images = np.stack([_read(folder / name) for name in names[:100]])
        picture = grid(images, labels=None if len(images) > 1 else [*titles], scale=scale_for(images))
    else:
        chosen = [np.flatnonzero(rows == row)[:GRID_PER_CLASS] for row in range(len(titles))]
        images = np.stack([_read(folder / names[index]) for some in chosen for index in some])
        picture = grid(images, columns=len(chosen[0]), row_labels=[*titles], scale=scale_for(images))
    write_png(folder / "grid.png", picture)
    return "grid.png"


def _read(path: Path) -> np.ndarray:
    return decode(read_plain(path), str(path))


def _write_path(
    model: Model, cond: Cond, seed_indices: np.ndarray, sampling: Sampling, policy: Policy, folder: Path
) -> list[str]:
    """Write the path from noise to image of the first few images: `progressive.png`, and animated."""
    # One chunk only, so that each step is reported once for all of these images.
    rows = np.arange(min(STRIP_IMAGES, len(seed_indices), chunk_size(model.latent_shape, policy)))
    path: list[np.ndarray] = []
    estimates: list[np.ndarray] = []

    def keep(step: int, time: float, x: torch.Tensor, x0: torch.Tensor) -> None:
        path.append(model.decode(x, policy))
        estimates.append(model.decode(x0, policy))

    # Draw the same images again; an image depends on its seed alone.
    generate(model, conditions.index(cond, rows), seed_indices[rows], sampling, policy, on_step=keep)

    # A picture of some steps, x_t above the estimate of x0; an animation of all.
    chosen = np.unique(np.linspace(0, len(path) - 1, STRIP_STEPS).round().astype(int))
    shown = [frames[step][row] for row in rows for frames in (path, estimates) for step in chosen]
    picture = grid(
        np.stack(shown),
        columns=len(chosen),
        row_labels=["x_t", "x0 estimate"] * len(rows),
        column_labels=[f"step {step + 1}" for step in chosen],
        scale=scale_for(path[0]),
    )
    write_png(folder / "progressive.png", picture)
    frames = [grid(frame, columns=len(rows), scale=scale_for(frame)) for frame in path]
    animation(frames, folder / "progressive.webp")
    return ["progressive.png", "progressive.webp"]
