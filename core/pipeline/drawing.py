"""Images drawn into a folder, a file each: what they are drawn from, and drawing those that the folder lacks."""

import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ..conditioning.conditioning import Conditioning
from ..conditioning.registry import conditioning_of
from ..denoisers import registry as denoisers
from ..diffusion.conditions import Cond
from ..diffusion.names import CONSISTENCY
from ..distributed import processes
from ..errors import ConfigError
from ..files import sha256_file, sha256_json, write_bytes
from ..images.decode import write_png
from ..images.grid import grid, scale_for
from ..progress import Progress
from ..runs.inputs import as_input
from ..runs.pieces import Pieces
from ..runs.run import StageRun
from ..settings.fields import defaults, identity, read_seeds
from ..system.compile import maybe_compile
from ..system.precision import Policy
from ..system.signals import stop_flag
from .asking import with_encoders
from .generation import Edit, Sampling, as_trained, check, check_clip, chunk_size, evaluations, generate, sampling_of
from .generator import Generator, Look, OnStep, Opened, refuse_settings
from .loading import diffusion_of, load_model, open_denoiser, open_guides, state_of, student_of, with_guides
from .model import Model, forward_process, one_condition
from .settings import Drawing, Repeatable, Seeded, TokenDrawing
from .students import inside, sampling_of_student

PREVIEW = "preview.png"
_OF_CONSISTENCY = (
    *("denoiser", "checkpoint", "cfg", "cfg_paper", "cfg_interval", "cfg_rescale", "cfg_channels", "away_from"),
    *("steps", "shift", "clip"),
)


@dataclass(frozen=True)
class DenoisingGenerator:
    """A denoiser and how it is sampled: a `Generator`. on_latents: given those of what is drawn, as `generate` does."""

    model: Model
    sampling: Sampling
    policy: Policy
    on_latents: Callable[[Tensor], None] | None = None

    @property
    def at_once(self) -> int:
        return chunk_size(self.model.shape_at(self.sampling.image_size), self.policy)

    def draw(
        self, cond: Cond, seeds: np.ndarray, on_step: OnStep | None = None, edit: Edit | None = None
    ) -> np.ndarray:
        """Return an image for each seed; see `Generator` and `generate`."""

        def show(step: int, time: float, x: Tensor, x0: Tensor) -> None:
            assert on_step is not None, "called only with on_step"
            on_step(step, lambda: {"x_t": self.decode(x), "x0 estimate": self.decode(x0)})

        sampling, student = self.sampling, self.model.student
        if student is not None:
            cond, sampling = inside(student, cond, sampling, len(seeds))
        shown = show if on_step else None
        return generate(self.model, cond, seeds, sampling, self.policy, shown, edit, self.on_latents)

    def encode(self, images: np.ndarray) -> Tensor:
        """Return latents, on the device, of images, uint8 (B, H, W, 3)."""
        return self.model.encode(images, self.policy)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return images, uint8 (B, H, W, 3)."""
        return self.model.decode(latents, self.policy)


@dataclass(frozen=True)
class OpenedDenoiser:
    """A denoiser stage and what guides it: an `Opened`."""

    source: StageRun
    guides: dict[str, StageRun]
    conditioning: Conditioning
    sampling: Sampling
    label: str
    shows_steps = True

    @property
    def settings(self) -> dict[str, Any]:
        return {**self.sampling.recorded, "steps": self.sampling.num_steps}

    @property
    def evaluations(self) -> int:
        if student_of(self.source) is not None:
            return self.sampling.num_steps  # Guidance is inside.
        return evaluations(self.sampling, forward_process(diffusion_of(self.source)))[0]

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return them as inputs of the stage in `folder`."""
        return {role: as_input(run, folder) for role, run in {"denoiser": self.source, **self.guides}.items()}

    def generator(self, config: Drawing, policy: Policy) -> DenoisingGenerator:
        """Load the networks, to be drawn from as the settings say."""
        return DenoisingGenerator(self.load(config, policy), self.sampling, policy)

    def with_settings(self, generator: Generator) -> DenoisingGenerator:
        """Return a loaded generator of the same networks that draws as the settings say."""
        assert isinstance(generator, DenoisingGenerator), "loaded from the same directories"
        return replace(generator, sampling=self.sampling)

    def load(self, config: Drawing, policy: Policy) -> Model:
        """Load the networks, compiled if so wished."""
        model = replace(load_model(self.source, config, policy), conditioning=self.conditioning)
        model = with_guides(model, self.guides, config, policy)
        maybe_compile(model.network, bool(config.machine.compile), policy.device)
        return model

    def recorded(self, seed: int) -> dict[str, Any]:
        """Return what a manifest records of how images were drawn."""
        return {**self.settings, "seed": seed, **state_of(self.source)}


def open_model(config: Drawing) -> OpenedDenoiser:
    """Open the denoiser that the settings draw from. Raises ConfigError where it does not support them."""
    refuse_settings(config, TokenDrawing, (), "a denoiser")
    source = open_denoiser(config.denoiser, config, config.checkpoint)
    diffusion, conditioning = diffusion_of(source), with_encoders(conditioning_of(source.metadata), config)
    channels, student = source.metadata["latent_shape"][0], student_of(source)
    if student is not None:
        sampling = sampling_of_student(config, student)
        return OpenedDenoiser(source, {}, conditioning, sampling, f"cfg-{sampling.cfg:g}_distilled{student.steps}")
    if diffusion.objective == CONSISTENCY:
        refuse_settings(config, Drawing, _OF_CONSISTENCY, "a consistency model")
    has_negative = conditioning.has_null or config.away_from is not None
    sampling = as_trained(sampling_of(config, has_negative), diffusion).on(diffusion.most_steps)
    check(sampling, diffusion, has_negative, channels)
    check_clip(sampling, of_pixels=source.metadata["image_size"] == source.metadata["latent_shape"][1])
    steps = config.steps if config.steps is not None else ""
    label = f"cfg-{sampling_of(config, has_null=True).cfg:g}_{sampling.sampler}{steps}"
    if config.away_from is not None:
        one_condition(conditioning, "away_from", config.away_from)
    guides = open_guides(source, config, guides_from_null=sampling.cfg != 1 and config.away_from is None)
    if config.image_size is not None:
        for network in (source, *guides.values()):
            _check_size(config.image_size, network)
    return OpenedDenoiser(source, guides, conditioning, sampling, label)


def _check_size(image_size: int, network: StageRun) -> None:
    """Refuse images of another size than a network was trained on where it takes no other. Raises ConfigError."""
    trained, (_, rows, columns) = network.metadata["image_size"], network.metadata["latent_shape"]
    if image_size == trained:
        return
    denoisers.require_any_size(network.path / "final", f"`image_size={image_size}`", f"{trained} pixels")
    height, rest = divmod(image_size * rows, trained)
    if rest:
        what = f"`image_size={image_size}` is not a multiple of {trained // rows}, the autoencoder's downsampling"
        raise ConfigError(what, f"use {image_size - image_size % (trained // rows) or trained // rows}")
    denoisers.read_config(network.path / "final").replace(latent_size=(height, image_size * columns // trained))


def image_seeds(config: Seeded, groups: int) -> np.ndarray:
    """Return the seeds of the images of each of so many classes, int64 (groups, n).

    Those that are listed, for every class the same; else `num` for each, all one after the other.
    """
    if config.seeds is None:
        return consecutive(config.seed, config.num * groups).reshape(groups, config.num)
    return np.tile(np.array(read_seeds(config.seeds), dtype=np.int64), (groups, 1))


def seeds_in_words(seeds: np.ndarray) -> str:
    """Return seeds (groups, n) for a summary: the first and the last, or all that are few."""
    listed = np.unique(seeds).tolist()
    if listed == [*range(listed[0], listed[-1] + 1)]:
        return f"{listed[0]} to {listed[-1]}" if len(listed) > 1 else str(listed[0])
    return ", ".join(map(str, listed[:10])) + (f", … {listed[-1]}" if len(listed) > 10 else "")


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


def consecutive(first: int, count: int) -> np.ndarray:
    """Return seeds one after the other, int64 (count,). Raises ConfigError where there are not so many."""
    if first + count > 2**63:
        raise ConfigError(f"`seed={first}` leaves {2**63 - first:,} seeds for {count:,} images", "give a smaller one")
    return first + np.arange(count, dtype=np.int64)


def settings_digest(config: Drawing, contents: Mapping[str, str] | None = None) -> str:
    """Return a few letters that differ for other settings and contents; a setting by default does not change them."""
    default = identity(defaults(type(config), config.model_dump()))
    given = {name: value for name, value in identity(config).items() if value != default[name]}
    return sha256_json([given, dict(contents or {})])[:6]


def folder_label(config: Drawing, beginning: str, inputs: dict[str, dict[str, Any]]) -> str:
    """Return a readable folder name, different for other settings and other contents of the inputs."""
    readable = "".join(c if c.isalnum() or c in "-," else "_" for c in beginning)[:40]
    contents = {name: each["fingerprint"] for name, each in inputs.items()}
    return f"{readable}_{settings_digest(config, contents)}"


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
        raise ConfigError(f"`save_latents`: {opened.source.path} is no denoiser of latents", "leave it out")
    return Latents()


@dataclass(frozen=True)
class Images:
    """Images to draw, a file each.

    pixels: the rows of some images → what to write, uint8 (B, H, W, 3). groups: int (N,): images of different groups
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
    with stop_flag() as stop, ThreadPoolExecutor(1, thread_name_prefix="write") as writer:
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
