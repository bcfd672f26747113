"""`ldm export`: a run in, a folder that diffusers loads out, with a model card."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ...core import files
from ...core.conditioning.conditioning import Request
from ...core.conditioning.registry import conditioning_of
from ...core.errors import ConfigError
from ...core.interchange import model_spec, scheduler
from ...core.interchange.conversion import compare, convert, difference_of_images, other_times
from ...core.interchange.export_record import CARD, is_made, write_record
from ...core.interchange.exporters import autoencoder_exporter, denoiser_exporter
from ...core.interchange.model_card import GRID, Shown, autoencoder_card, card, look_for
from ...core.interchange.pipeline import Parts, write_pipeline
from ...core.interchange.prompts import PROMPTS, write_prompts
from ...core.interchange.stock import lengths_of
from ...core.pipeline.asking import with_encoders, with_prompts
from ...core.pipeline.loading import (
    diffusion_of,
    load_autoencoder,
    load_model,
    open_denoiser,
    require_denoising,
    student_of,
)
from ...core.pipeline.model import Model, forward_process
from ...core.pipeline.students import at_scale, check_scale, usual_sampling
from ...core.pipeline.training_data import reader_of_images
from ...core.progress import Outcome, Progress, number_of
from ...core.runs.inputs import open_own, open_producer
from ...core.runs.roles import AUTOENCODER
from ...core.runs.run import StageRun
from ...core.system.precision import resolve
from ..configs.exchange import Export

_SHOWN = 3  # prompts in the summary


@dataclass(frozen=True)
class Sources:
    """The stages of an export, and what its model card shows. scale: of guidance, where one is fixed."""

    denoiser: StageRun
    autoencoder: StageRun
    shown: Shown
    scale: float | None

    def identity(self, config: Export) -> dict[str, Any]:
        """Return what determines the export's content, JSON."""
        return {
            "to": config.to,
            "denoiser": self.denoiser.fingerprint,
            "autoencoder": self.autoencoder.fingerprint,
            "shown": self.shown.fingerprint,
            **({"texts": texts} if (texts := lengths_of(conditioning_of(self.denoiser.metadata))) else {}),
            **({"prompts": [*config.prompt]} if config.prompt else {}),
            **({"cfg": self.scale} if self.scale is not None else {}),
        }


def run(config: Export, progress: Progress) -> Outcome:
    """Write a run as a pipeline of diffusers, or a part of it. Returns the folder."""
    config = with_prompts(config)
    if config.part == "autoencoder":
        _refuse(config, ("denoiser", "prompt", "text_encoder", "cfg"), "an autoencoder alone")
        return _export_autoencoder(config, progress)
    if config.part == "prompts":
        _refuse(config, ("cfg",), "prompts alone")
        return _export_prompts(config, progress)
    return _export_all(config, progress)


def _export_all(config: Export, progress: Progress) -> Outcome:
    sources = _open(config, progress)
    made_of = sources.identity(config)
    if is_made(config.directory, made_of, config.replace):
        return Outcome(config.directory, already_complete=True)
    _require_square(sources.denoiser)
    model = _load(sources.denoiser, config)
    parts = convert(model, sources.denoiser.metadata["image_size"], config.text_encoder)
    request: Request | None = None
    if parts.why_not is None:
        _refuse(
            config,
            ("prompt",),
            "a folder that draws from prompts itself" if parts.encoders else "a model without prompts",
        )
    else:
        request = _requested(model, config, progress)
        progress.note(f"prompts are given as tensors, in {PROMPTS}, as {parts.why_not}")
    for difference in other_times(model):
        progress.warn(f"diffusers draws other images from the same noise. {difference}")
    agreement = compare(model, parts)
    if not agreement.holds:
        progress.warn(f"on random latents the export differs: {agreement}")
    with _published(config, made_of) as folder:
        write_pipeline(folder, parts, model.conditioning.class_names)
        if request is not None:
            write_prompts(folder / PROMPTS, model.network, model.conditioning, request)
        if sources.shown.grid is not None:
            files.write_bytes(folder / GRID, sources.shown.grid.read_bytes())
        reader = reader_of_images(sources.denoiser, config)
        text = card(sources.denoiser, reader, sources.shown, model, agreement, parts, request)
        files.write_bytes(folder / CARD, text.encode(errors="backslashreplace"))
        model_spec.describe(folder, config.name, sources.denoiser.metadata["image_size"])
    summary = {
        "of": _what(model, parts, request),
        "agreement": str(agreement),
        "licence": f"none yet: add one to {config.directory / CARD}",
    }
    pictures = [config.directory / GRID] if sources.shown.grid is not None else []
    return Outcome(config.directory, summary=summary, pictures=pictures)


def _require_square(source: StageRun) -> None:
    """Refuse images that are not square, which no configuration of diffusers' names here. Raises ConfigError."""
    _, height, width = source.metadata["latent_shape"]
    if height != width:
        raise ConfigError(f"{source.path} is of images that are not square", "only models of squares are exported")


def _what(model: Model, parts: Parts, request: Request | None) -> str:
    """Say what a call of the export asks for."""
    if request is not None:
        return f"{len(request.titles):,} prompts as tensors"
    classes = model.network.config.num_classes
    return "prompts" if parts.encoders else number_of(classes, "class") if classes else "images without a condition"


def _refuse(config: Export, names: Sequence[str], what: str) -> None:
    """Raise ConfigError for a setting that is given and has no effect."""
    for name in names:
        if getattr(config, name) not in (None, ()):
            raise ConfigError(f"`{name}` has no effect on {what}", "leave it out")


def _load(denoiser: StageRun, config: Export) -> Model:
    """Load a model, with what reads its prompts."""
    model, scale = load_model(denoiser, config, resolve("cpu", "fp32")), _fixed_scale(denoiser, config)
    model = model if scale is None else at_scale(model, scale)
    return replace(model, conditioning=with_encoders(model.conditioning, config))


def _requested(model: Model, config: Export, progress: Progress) -> Request:
    """Return the conditions of the prompts that are given, or else those of previews, of classes all."""
    request = model.conditioning.request({"prompt": config.prompt} if config.prompt else {})
    for note in request.notes:
        progress.warn(note)
    return request


def _export_prompts(config: Export, progress: Progress) -> Outcome:
    """Write prompts as the tensors that an exported network takes."""
    denoiser = open_denoiser(config.denoiser, config)
    made_of = {"to": config.to, "part": config.part, "denoiser": denoiser.fingerprint, "prompts": [*config.prompt]}
    if is_made(config.directory, made_of, config.replace):
        return Outcome(config.directory, already_complete=True)
    model = _load(denoiser, config)
    if not denoiser_exporter(model.network).pipeline(model.network.config).slots:
        raise ConfigError(f"{denoiser.path} reads no prompts as tensors", "export all of it: leave out `part`")
    request = _requested(model, config, progress)
    with _published(config, made_of) as folder:
        write_prompts(folder / PROMPTS, model.network, model.conditioning, request)
    shown = ", ".join(map(repr, request.titles[:_SHOWN])) + ", …" * (len(request.titles) > _SHOWN)
    return Outcome(config.directory, summary={"prompts": f"{len(request.titles):,}: {shown}"})


def _export_autoencoder(config: Export, progress: Progress) -> Outcome:
    source = open_own(AUTOENCODER, config)
    made_of = {"to": config.to, "part": config.part, "autoencoder": source.fingerprint}
    if is_made(config.directory, made_of, config.replace):
        return Outcome(config.directory, already_complete=True)
    source.verify()
    _require_square(source)
    autoencoder = load_autoencoder(source, resolve("cpu", "fp32")).network
    side = source.metadata["latent_shape"][1]
    network: Any = autoencoder_exporter(autoencoder).to_diffusers(autoencoder, side)
    x = torch.randn(2, *source.metadata["latent_shape"], generator=torch.Generator().manual_seed(0))
    difference = difference_of_images(autoencoder, network, x)
    agreement = f"decoded images within {difference * 255:.2g}/255"
    if difference > 1 / 255:
        progress.warn(f"on random latents the export differs: {agreement}")

    with _published(config, made_of) as folder:
        network.save_pretrained(folder, safe_serialization=True)
        text = autoencoder_card(source, autoencoder, type(network).__name__, agreement)
        files.write_bytes(folder / CARD, text.encode(errors="backslashreplace"))
        model_spec.describe(folder, config.name, source.metadata["image_size"])
    summary = {
        "autoencoder": type(network).__name__,
        "agreement": agreement,
        "licence": f"none yet: add one to {config.directory / CARD}",
    }
    return Outcome(config.directory, summary=summary)


@contextmanager
def _published(config: Export, made_of: dict[str, Any]) -> Iterator[Path]:
    """Yield a folder to fill, which then becomes the export, with its record, in the place of an earlier one."""
    config.directory.parent.mkdir(parents=True, exist_ok=True)
    with files.new_directory(config.directory, replace=True) as folder:
        yield folder
        write_record(folder, made_of, config.directory, config.root, config.denoiser)


def _open(config: Export, progress: Progress) -> Sources:
    """Open the stages. Raises DataError where one is missing, or the autoencoder changed since."""
    denoiser = open_denoiser(config.denoiser, config)
    require_denoising(denoiser)
    _require_stock_sampling(denoiser)
    autoencoder = open_producer(denoiser, "autoencoder", AUTOENCODER, config)
    scale = _fixed_scale(denoiser, config)
    return Sources(denoiser, autoencoder, look_for(config.root, denoiser, progress.warn, scale), scale)


def _require_stock_sampling(denoiser: StageRun) -> None:
    """Raise ConfigError for a student whose times no pipeline of diffusers has."""
    student = student_of(denoiser)
    if student is None:
        return
    diffusion = diffusion_of(denoiser)
    schedule = forward_process(diffusion)
    if schedule.num_steps % student.steps or (diffusion.shift != 1 and not scheduler.shifts(schedule)):
        raise ConfigError(
            f"{denoiser.path} draws in {student.steps} steps at times that no scheduler of diffusers visits",
            f"export one whose steps divide {schedule.num_steps}, trained without `diffusion.shift`",
        )


def _fixed_scale(denoiser: StageRun, config: Export) -> float | None:
    """Return the guidance scale that is to be fixed in a student that takes it as an input; None for other denoisers.

    Raises ConfigError for a scale that the denoiser does not take.
    """
    student = student_of(denoiser)
    if student is None:
        _refuse(config, ("cfg",), "a denoiser that was not distilled: the pipeline guides it, by guidance_scale")
        return None
    check_scale(student, config.cfg)
    return usual_sampling(student, config.cfg).cfg if student.takes_scale else None
