"""`ldm sample`: a generator, conditions and seeds in, pictures out."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..core.conditioning.conditioning import Conditioning, Request
from ..core.conditioning.registry import recorded
from ..core.diffusion import conditions
from ..core.diffusion.conditions import Cond
from ..core.distributed import processes
from ..core.errors import ConfigError
from ..core.files import read_plain
from ..core.images.decode import decode, write_png
from ..core.images.grid import animation, grid, scale_for
from ..core.pipeline.again import like, parameters_of
from ..core.pipeline.asking import with_prompts
from ..core.pipeline.drawing import image_seeds, seeds_in_words, settings_digest
from ..core.pipeline.generator import Generator, Loaded, Opened, open_generator
from ..core.pipeline.writing import PREVIEW, Images, draw, kept_latents, preview
from ..core.progress import Outcome, Progress
from ..core.runs.outputs import claim, command_line, occupied, output_folder
from ..core.runs.schemas import size_of, size_recorded
from .configs import Sample

GRID_CLASSES, GRID_PER_CLASS = 20, 10
TITLE_LETTERS, TITLE_SIDE, TITLE_LINES = 24, 128, 6  # of a title that is a text: pixels below which it can be read
STRIP_IMAGES, STRIP_CLASSES, STRIP_STEPS = 4, 10, 10


@dataclass(frozen=True)
class Asked:
    """What is to be drawn, checked against the generator's manifest; nothing is loaded or written yet.

    seeds: int64 (rows of the request, images of each). label: the name of the folder.
    """

    config: Sample
    opened: Opened
    request: Request
    seeds: np.ndarray
    label: str

    @property
    def names(self) -> list[str]:
        """The file of each image, row by row of the request, by seed where seeds differ."""
        several = len(self.seeds) > 1 and self.config.seeds is not None
        return [
            f"{row:03d}-{seed:06d}.png" if several else f"{seed:06d}.png"
            for row, seeds in enumerate(self.seeds)
            for seed in seeds
        ]

    @property
    def rows(self) -> np.ndarray:
        """Each image's row of the request, int64."""
        return np.repeat(np.arange(len(self.request.titles)), self.seeds.shape[1])

    def metadata(self, sampling: dict[str, Any]) -> dict[str, Any]:
        """Return what the manifest says of the images that were drawn so. sampling: as `Opened` records it."""
        images = zip(self.names, self.rows, self.seeds.ravel(), strict=True)
        asked, own = self.config.image_size, self.opened.source.metadata
        return {
            "images": [{"file": name, **self.request.records[row], "seed": int(seed)} for name, row, seed in images],
            **recorded(self.opened.conditioning, of_samples=True),
            "sampling": sampling,
            **({"image_size": asked} if asked else size_recorded(size_of(own))),
        }


def ask(config: Sample) -> Asked:
    """Check what is asked for. Raises ConfigError and DataError where it cannot be drawn."""
    # An image to draw again gives the settings that are not given.
    if config.like is not None:
        config = like(config.like, config, num=1)
    config = with_prompts(config)
    opened = open_generator(config)
    request = opened.conditioning.request(config.asked)
    for name in ("progressive", "preview_every"):
        if getattr(config, name) and not opened.shows_steps:
            raise ConfigError(f"`{name}`: {opened.source.path} does not draw in steps", "leave it out")
    return Asked(
        config,
        opened,
        request,
        image_seeds(config, len(request.titles)),
        config.label or _label(config, opened),  # A label is the folder's name.
    )


def run(config: Sample, progress: Progress, loaded: Loaded | None = None) -> Outcome:
    """Draw images of what was asked for. loaded: networks to use again. Returns their folder."""
    asked = ask(config)
    config, opened, request, label = asked.config, asked.opened, asked.request, asked.label
    for note in request.notes:
        progress.warn(note)
    conditioning, latents = opened.conditioning, kept_latents(config, opened)

    folder = output_folder(config, label)
    with occupied(folder, config.machine) as policy:
        # Nothing to do where the same settings and inputs have made this folder.
        work = claim(folder, config, opened.inputs(folder), progress)
        next_commands = [f"{command_line('eval', config)} --samples {shlex.quote(label)}"]
        pictures = [folder / "grid.png"] + ([folder / "progressive.png"] if config.progressive else [])
        if work.complete:
            facts = {"images": work.metadata.get("images", [])}  # Only the main process read them.
            return Outcome(folder, True, pictures=pictures, next_commands=next_commands, facts=facts)

        sampling = opened.recorded(config.seed)
        if len(conditioning.class_names) == 1 and sampling["cfg"] != 1:
            progress.note(
                f"one class: guidance at {sampling['cfg']:g} is away from images of the same; --cfg 1 disables it"
            )

        # Load the networks; draw an image of each class for each of its seeds.
        generator = (loaded or Loaded()).generator(opened, config, policy)
        seed_indices, names, rows = asked.seeds.ravel(), asked.names, asked.rows
        cond = conditions.index(request.cond, rows)
        on_step = preview(folder, config.preview_every)
        drawing = latents.of(generator) if latents is not None else generator

        def parameters(row: int) -> dict[str, Any]:
            record = request.records[rows[row]]
            return parameters_of(opened, config.command, record, conditioning.recall(record), int(seed_indices[row]))

        images = Images(
            names,
            pixels=lambda some: drawing.draw(conditions.index(cond, some), seed_indices[some], on_step),
            parameters=parameters if config.metadata else None,
            latents=latents,
        )
        hashes, speed = draw(images, config.batch_size, folder, progress)

        # One process draws the pictures and writes the manifest, the last file.
        if not processes.world().is_main:
            return Outcome(folder)
        (folder / PREVIEW).unlink(missing_ok=True)
        outputs = [*images.files, _write_grid(folder, names, rows, request)]
        if config.progressive:
            outputs += _write_path(generator, cond, seed_indices, rows, request, folder)
        metadata = asked.metadata(sampling)
        work.commit(outputs, metadata, hashes, speed)

    # What the command shows.
    how = f"{sampling['sampler']}, {sampling['steps']} steps, cfg {sampling['cfg']:g}"
    summary = {
        "images": f"{len(names):,} of {_what(request, conditioning)}, {how}",
        "seeds": seeds_in_words(asked.seeds),
    }
    facts = {"images": metadata["images"]}
    return Outcome(folder, summary=summary, pictures=pictures, next_commands=next_commands, facts=facts)


def _what(request: Request, conditioning: Conditioning) -> str:
    """Return what images were drawn of, in words."""
    several = {"classes": "classes" if conditioning.class_names else "conditions"}.get(conditioning.asks, "prompts")
    return f"{len(request.titles)} {several}" if len(request.titles) > 1 else request.titles[0]


def _label(config: Sample, opened: Opened) -> str:
    """Return a readable folder name of the settings, different for different settings."""
    asks = opened.conditioning.asks
    asked = config.asked.get(asks, "captions")
    texts = [asked] if isinstance(asked, str) else asked
    readable = "-".join("".join(c if c.isalnum() or c in "-," else "_" for c in text) for text in texts)
    state = "" if config.checkpoint == "final" else f"_{config.checkpoint}"
    if config.checkpoint == "latest":  # Of which there will be others.
        state += f"-{opened.source.metadata['images_seen']}"
    what = "class" if asks == "classes" else asks
    seeds = f"seed-{config.seed}" if config.seeds is None else f"seeds-{config.seeds[:40]}"
    return f"{what}-{readable[:40]}{state}_{opened.label}_{seeds}_{settings_digest(config)}"


def _write_grid(folder: Path, names: list[str], rows: np.ndarray, request: Request) -> str:
    """Write `grid.png`: a labelled row for each class, or the images of a single one in a square.

    A single image of each of several prompts has its prompt below it.
    """
    titles = request.titles[:GRID_CLASSES]
    chosen = [np.flatnonzero(rows == row)[: 100 if len(titles) == 1 else GRID_PER_CLASS] for row in range(len(titles))]
    images = np.stack([_read(folder / names[index]) for some in chosen for index in some])
    side = max((TITLE_SIDE * (len(title) > TITLE_LETTERS) for title in titles), default=0) or 64
    below = [*titles] if len(titles) == len(images) and (len(titles) == 1 or side > 64) else None
    beside = [*titles] if len(titles) > 1 and below is None else None
    columns = None if beside is None else len(chosen[0])
    write_png(folder / "grid.png", grid(images, columns, below, beside, None, scale_for(images, side), TITLE_LINES))
    return "grid.png"


def _read(path: Path) -> np.ndarray:
    return decode(read_plain(path), str(path))


def _write_path(
    generator: Generator, cond: Cond, seed_indices: np.ndarray, asked: np.ndarray, request: Request, folder: Path
) -> list[str]:
    """Write the path to the last step of the first few images, of each class alike: `progressive.png`, and animated.

    asked: each image's row of the request.
    """
    # Few enough to be computed together, so that each step is shown once for all of them.
    each = max(1, STRIP_IMAGES // len(request.titles))
    firsts = [np.flatnonzero(asked == row)[:each] for row in range(len(request.titles))]
    rows = np.concatenate(firsts)[: min(max(STRIP_IMAGES, STRIP_CLASSES), generator.at_once)]
    path: list[Mapping[str, np.ndarray]] = []

    # Draw the same images again; an image depends on its seed alone.
    generator.draw(conditions.index(cond, rows), seed_indices[rows], lambda step, look: path.append(look()))

    # A picture of some steps, what becomes the image above estimates of it; an animation of all.
    titles = [f"{request.titles[asked[row]]}, " if len(request.titles) > 1 else "" for row in rows]
    chosen = np.unique(np.linspace(0, len(path) - 1, STRIP_STEPS).round().astype(int))
    kinds = [*path[0]]
    shown = [path[step][kind][place] for place in range(len(rows)) for kind in kinds for step in chosen]
    picture = grid(
        np.stack(shown),
        columns=len(chosen),
        row_labels=[f"{title}{kind}" for title in titles for kind in kinds],
        column_labels=[f"step {step + 1}" for step in chosen],
        scale=scale_for(path[0][kinds[0]]),
    )
    write_png(folder / "progressive.png", picture)
    frames = [grid(looks[kinds[0]], columns=len(rows), scale=scale_for(looks[kinds[0]])) for looks in path]
    animation(frames, folder / "progressive.webp")
    return ["progressive.png", "progressive.webp"]
