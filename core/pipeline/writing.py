"""Images drawn into a folder, a file each: those that it lacks, their latents, and a picture of what is being drawn."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..distributed import processes
from ..errors import ConfigError
from ..files import sha256_file, write_bytes
from ..images.decode import write_png
from ..images.grid import grid, scale_for
from ..progress import Progress
from ..runs.pieces import Pieces
from ..system.signals import stop_flag
from ..system.threads import background
from .drawing import DenoisingGenerator, OpenedDenoiser
from .generator import Generator, Look, OnStep, Opened
from .settings import Repeatable

PREVIEW = "preview.png"


def preview(folder: Path, every: int) -> OnStep | None:
    """Return what writes a picture of the images that are being drawn, after every so many steps; None for never.

    Each is written whole in the place of the last. One process writes them, of what it draws itself.
    """
    if not every or not processes.world().is_main:
        return None

    def show(step: int, look: Look) -> None:
        if (step + 1) % every == 0:
            *_, images = look().values()  # the estimate of the images, where there is more to see
            write_png(folder / PREVIEW, grid(images, scale=scale_for(images)))

    return show


class Latents:
    """The latents of images that were drawn last, to be written beside them."""

    def __init__(self) -> None:
        self._parts: list[Tensor] = []

    def of(self, generator: Generator) -> DenoisingGenerator:
        """Return the generator that keeps them here."""
        assert isinstance(generator, DenoisingGenerator), "of an `OpenedDenoiser`"
        return replace(generator, on_latents=self._parts.append)

    def take(self) -> Tensor:
        """Return those of all images since the last call, float32 (B, C, h, w) on the CPU."""
        taken = torch.cat(self._parts).float().cpu()
        self._parts.clear()
        return taken


def kept_latents(config: Repeatable, opened: Opened) -> Latents | None:
    """Return what keeps latents, where they are asked for. Raises ConfigError for a generator that has none."""
    if not config.save_latents:
        return None
    if not isinstance(opened, OpenedDenoiser):
        raise ConfigError(f"`save_latents`: {opened.source.path} is not a denoiser of latents", "leave it out")
    return Latents()


@dataclass(frozen=True)
class Images:
    """Images to draw, a file each.

    pixels: the rows of some images → what to write, uint8 (B, H, W, C). groups: int (N,): images of different groups
    are never drawn together. parameters: a row → those that its file carries. latents: has those of the images that
    `pixels` drew last, to be written too.
    """

    names: list[str]
    pixels: Callable[[np.ndarray], np.ndarray]
    groups: np.ndarray | None = None
    parameters: Callable[[int], Mapping[str, Any]] | None = None
    latents: Latents | None = None

    @property
    def files(self) -> list[str]:
        """What is written: the images, and their latents."""
        return [*self.names, *(map(latent_file, self.names) if self.latents is not None else ())]

    def turns(self, missing: list[int], size: int) -> Iterator[np.ndarray]:
        """Divide the missing rows into turns of one group and at most `size` rows each."""
        rows = np.array(missing, dtype=np.int64)
        groups = np.zeros(len(rows)) if self.groups is None else self.groups[rows]
        for group in np.unique(groups):
            of_group = rows[groups == group]
            yield from (of_group[start : start + size] for start in range(0, len(of_group), size))


def draw(images: Images, batch_size: int, folder: Path, progress: Progress) -> tuple[dict[str, str], float | None]:
    """Draw the missing images into a folder; each process draws a share.

    A thread writes one batch while the next is drawn; each is whole on the disk before the next is submitted. Returns
    the sha256 of each file, by name, and images a second; None where none was missing. Raises Stopped after a signal.
    """
    # What is not there as it was drawn is left to draw; the main process decides.
    names, drawn, world = images.names, Pieces(folder), processes.world()
    whole = drawn.whole(images.files, progress.warn) if world.is_main else [False] * len(images.files)
    found = np.array(processes.broadcast_flags(whole)).reshape(-1, len(names))  # images, latents
    missing = np.flatnonzero(~found.all(axis=0)).tolist()
    done = len(names) - len(missing)
    progress.start("sampling", len(names), "images", done=done)
    started = time.monotonic()
    writing: Future[None] | None = None
    with stop_flag() as stop, background("write") as writer:
        for turn in images.turns(missing, batch_size * world.size):
            # A turn: a batch for each process. In the last one some may have nothing, but wait with the others.
            rows = turn[world.share(len(turn))]
            if len(rows):
                pixels = images.pixels(rows)
                latents = images.latents.take() if images.latents is not None else None
                if writing is not None:
                    writing.result()
                writing = writer.submit(_write, drawn, images, rows, pixels, latents)

            # A signal to one process stops all, after what they have drawn is written.
            stopping = processes.stop_requested(stop)
            done += len(turn)
            progress.update(done)
            if stopping and done < len(names):
                break
        if writing is not None:
            writing.result()
    processes.barrier()  # The images of all processes are on the disk.
    if done < len(names):
        raise stop.stopped(f"after {done:,} images")
    progress.finish()
    recorded = Pieces(folder).hashes  # by all processes
    speed = len(missing) / (time.monotonic() - started) if missing else None
    return {name: recorded[name] for name in images.files}, speed


def latent_file(image: str) -> str:
    """Return the name of the file with an image's latent."""
    return f"{image.removesuffix('.png')}.safetensors"


def _write(drawn: Pieces, images: Images, rows: np.ndarray, pixels: np.ndarray, latents: Tensor | None) -> None:
    for place, (row, image) in enumerate(zip(rows.tolist(), pixels, strict=True)):
        name = images.names[row]
        written = [name]
        if latents is not None:
            written.append(latent_file(name))
            data = save({"latent": latents[place].contiguous()})
            write_bytes(drawn.folder / written[-1], data)
        write_png(drawn.folder / name, image, images.parameters(row) if images.parameters else None)
        drawn.add({each: sha256_file(drawn.folder / each) for each in written})
