"""`ldm import`: a DiT from elsewhere in, a run that `ldm sample` accepts out; or an autoencoder, for `ldm encode`."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ...core.autoencoders import registry
from ...core.autoencoders.codec import Autoencoder
from ...core.autoencoders.registry import DIFFUSERS
from ...core.conditioning.conditioning import NoConditioning
from ...core.conditioning.registry import recorded
from ...core.conditioning.text import TextConditioning
from ...core.denoisers import registry as denoisers
from ...core.denoisers.network import DenoiserNetwork
from ...core.diffusion import predictions
from ...core.diffusion.schedules import schedule
from ...core.errors import ConfigError, DataError
from ...core.files import read_json, read_plain, sha256_file, sha256_json
from ...core.images.settings import Data
from ...core.interchange import checkpoint
from ...core.interchange.export_record import check_export
from ...core.interchange.exporters import denoiser_exporter, import_autoencoder
from ...core.interchange.pipeline import open_pipeline, use_scaling_factor
from ...core.interchange.scheduler import Process
from ...core.pipeline.settings import Diffusion
from ...core.progress import Outcome, Progress, number_of
from ...core.runs.claim import claim
from ...core.runs.inputs import as_input, open_own
from ...core.runs.lock import occupy
from ...core.runs.outputs import command_line
from ...core.runs.roles import AUTOENCODER
from ...core.runs.run import Identity, StageRun
from ...core.runs.weights import CONFIG
from ..configs.exchange import Import

# The weighting of the paper's loss for each prediction, or of Salimans & Ho: a record only, sampling does not use it.
_WEIGHTINGS = {"eps": "snr", "x0": "uniform", "v": "snr+1", "flow": "flow"}
_READ = (".json", ".safetensors", ".bin")


@dataclass(frozen=True)
class Given:
    """The model at PATH: the denoiser, its training settings, its class names, and its autoencoder.

    texts: what it reads prompts by. shifts: whether the autoencoder's shift_factor counts.
    """

    denoiser: DenoiserNetwork
    process: Process
    class_names: dict[int, str]
    autoencoder: Path
    fingerprint: str
    texts: TextConditioning | None = None
    shifts: bool = False


def run(config: Import, progress: Progress) -> Outcome:
    """Write a run's autoencoder and denoiser from a model made elsewhere. Returns the folder of what it is.

    An autoencoder alone makes a run that `ldm encode` goes on with.
    """
    if not config.path.exists():
        raise DataError(f"{config.path} does not exist", "give a DiT checkpoint, or a folder of diffusers")
    for folder in filter(None, (config.path, config.autoencoder)):
        check_export(folder)
    described = read_json(config.path / CONFIG) if (config.path / CONFIG).is_file() else {}
    if str(described.get("_class_name")) in DIFFUSERS:
        return _import_autoencoder(config, described, progress)
    _refuse(config, ("image_size",), "an autoencoder", f"{config.path} is not one")
    if config.autoencoder is not None and not config.autoencoder.is_dir():
        raise ConfigError(f"`autoencoder={config.autoencoder}` is not a folder", "give one of an autoencoder")
    first, second = config.root / "vqvae", config.root / _kind(config.path)
    with occupy(first), occupy(second):
        given = _open(config, progress)
        autoencoder = _load_autoencoder(given, progress)
        shared = _metadata(config, given.denoiser, autoencoder, _names(config, given))
        metadata = shared | _denoiser_metadata(config, given)
        if not given.denoiser.config.num_classes:
            metadata = {name: value for name, value in metadata.items() if name != "class_names"}
            metadata |= recorded(given.texts or NoConditioning())
        made, _ = _autoencoder_stage(config, "vqvae", autoencoder, given.autoencoder, shared, progress)
        inputs = _denoiser_inputs(config, given, made, second)
        work = _claim(config, second.name, second, metadata, inputs, progress)
        complete = work.complete
        if not complete:
            denoisers.save(given.denoiser, work.path / "final", metadata)
            work.commit(["final/model.safetensors", "final/config.json"], metadata)
    shape = given.denoiser.config
    what = "prompts" if given.texts is not None else number_of(shape.num_classes, "class")
    summary = {
        "denoiser": f"{denoiser_exporter(given.denoiser).summary(shape)}, {what}",
        "images": f"{shared['image_size']} pixels, latents of {' × '.join(map(str, shared['latent_shape']))}",
    }
    asked = ' --prompt "a red square"' if given.texts is not None else " --class 0" if shape.num_classes else ""
    guided = f"{asked} --cfg {3 if shape.has_null else 1}" if asked else ""
    return Outcome(second, complete, summary, next_commands=[command_line("sample", config) + guided])


def _kind(path: Path) -> str:
    """Return the kind of directory that the denoiser at PATH becomes: that of the command which trains such ones."""
    return "dit" if path.is_file() or open_pipeline(path).exporter.TITLE == "DiT" else "denoiser"


def _import_autoencoder(config: Import, described: dict[str, Any], progress: Progress) -> Outcome:
    """Write a run's autoencoder. Raises ConfigError for flags that do not apply, or without the images' size."""
    _refuse(config, ("heads", "num_classes", "class_names", "autoencoder"), "a denoiser", f"{config.path} is not one")
    image_size = config.image_size or described.get("sample_size")
    if not isinstance(image_size, int) or image_size < 1:
        raise ConfigError(f"{config.path / CONFIG} has sample_size {image_size!r}", "add `image_size=N`")
    autoencoder = import_autoencoder(config.path)
    use_scaling_factor(autoencoder, config.path, shifts=True)
    shape = list(autoencoder.latent_shape(image_size))
    shared = {"class_names": ["all"], "latent_shape": shape, "image_size": image_size, "imported": config.path.name}
    with occupy(config.root / "autoencoder"):
        made, complete = _autoencoder_stage(config, "autoencoder", autoencoder, config.path, shared, progress)
    summary = {
        "autoencoder": f"{sum(each.numel() for each in autoencoder.parameters()):,} parameters",
        "images": f"{image_size} pixels, latents of {' × '.join(map(str, shape))}",
    }
    return Outcome(made.path, complete, summary, next_commands=[command_line("encode", config) + " --data FOLDER"])


def _refuse(config: Import, names: Sequence[str], applies_to: str, instead: str) -> None:
    """Raise ConfigError for a flag that is given and does not apply."""
    for name in names:
        if getattr(config, name) is not None:
            raise ConfigError(f"`{name}` applies to {applies_to}, but {instead}", "leave it out")


def _open(config: Import, progress: Progress) -> Given:
    """Read the model at PATH. Raises ConfigError for flags that do not apply, DataError where it is not a model."""
    if config.path.is_dir():
        _refuse(config, ("heads", "num_classes"), "a checkpoint", f"{config.path} is a folder")
        pipeline = open_pipeline(config.path)
        if pipeline.clips:
            progress.warn(f"the scheduler in {config.path} clips every estimate of x0, which `ldm sample` does not do")
        folder = config.autoencoder or pipeline.autoencoder
        texts = pipeline.read_texts()
        denoiser = pipeline.load_denoiser({} if texts is None else texts.sizes)
        fingerprint, shifts = _fingerprint(config.path), pipeline.stock.shifts
        return Given(denoiser, pipeline.process, pipeline.class_names, folder, fingerprint, texts, shifts)
    denoiser = checkpoint.load_dit(config.path, config.heads, config.num_classes)
    if config.autoencoder is None:
        raise ConfigError(
            f"{config.path} has a denoiser but no autoencoder",
            "add `autoencoder=FOLDER`, the diffusers autoencoder it was trained on",
        )
    return Given(denoiser, checkpoint.PROCESS, {}, config.autoencoder, sha256_file(config.path))


def _fingerprint(folder: Path) -> str:
    """Return a sha256 of the files that are read of a pipeline's folder."""
    found = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in _READ)
    return sha256_json({path.relative_to(folder).as_posix(): sha256_file(path) for path in found})


def _load_autoencoder(given: Given, progress: Progress) -> Autoencoder:
    """Load a folder of ours with its statistics, or one of diffusers with those of its scaling factor."""
    folder = given.autoencoder
    autoencoder = registry.load(folder)
    described = read_json(folder / CONFIG)
    if "_class_name" in described:
        use_scaling_factor(autoencoder, folder, given.shifts)
        if described.get("shift_factor") and not given.shifts:
            progress.warn(f"{folder / CONFIG}: shift_factor is ignored, as in the pipeline")
    if autoencoder.decodes_only:
        progress.note(f"{folder} decodes only: an encoder was not exported with it")
    return autoencoder


def _names(config: Import, given: Given) -> list[str]:
    """Return a name for every class. Raises DataError for a file with another number of them."""
    num = given.denoiser.config.num_classes
    if config.class_names is None:
        return [given.class_names.get(index, f"class {index}") for index in range(num)]
    try:
        names = read_plain(config.class_names).decode().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"`class_names={config.class_names}` cannot be read: {error}", "give a text file") from None
    if len(names) != num or not all(names):
        raise DataError(
            f"`class_names={config.class_names}` has {len(names)} lines, the denoiser {num} classes",
            "give one name on each line, for the classes 0, 1 … in order",
        )
    return names


def _metadata(
    config: Import, denoiser: DenoiserNetwork, autoencoder: Autoencoder, class_names: list[str]
) -> dict[str, Any]:
    """Return what both directories record of images and latents. Raises ConfigError where the two do not fit."""
    shape = denoiser.config
    if autoencoder.latent_channels != shape.latent_channels:
        raise ConfigError(
            f"the denoiser's latents have {shape.latent_channels} channels, the autoencoder's"
            f" {autoencoder.latent_channels}",
            "give `autoencoder`, the one that the denoiser was trained on",
        )
    image_size = shape.size[0] * autoencoder.downsampling
    return {
        "class_names": class_names or ["all"],  # as images without class folders have
        "latent_shape": list(shape.latent_shape),
        "image_size": image_size,
        "imported": config.path.name,
    }


def _autoencoder_stage(
    config: Import, kind: str, autoencoder: Autoencoder, source: Path, shared: dict[str, Any], progress: Progress
) -> tuple[StageRun, bool]:
    """Write the autoencoder as the stage that trains it would have. Returns it, and whether it was there."""
    settings = {"data": Data(image_size=shared["image_size"]).model_dump(mode="json"), **shared}
    inputs = {"autoencoder": {"path": source.as_posix(), "fingerprint": registry.fingerprint(source)}}
    work = _claim(config, kind, config.root / kind, settings, inputs, progress)
    if not work.complete:
        registry.save(autoencoder, work.path / "final")
        measured = {"latent_mean": autoencoder.latent_mean.tolist(), "latent_std": autoencoder.latent_std.tolist()}
        names = sorted(f"final/{path.name}" for path in (work.path / "final").iterdir())
        return work.commit(names, {"trained": False, **shared, **measured}), False
    return open_own(AUTOENCODER, config, work.path), True


def _denoiser_inputs(config: Import, given: Given, autoencoder: StageRun, folder: Path) -> dict[str, Any]:
    weights = {"path": config.path.as_posix(), "fingerprint": given.fingerprint}
    return {"weights": weights, "autoencoder": as_input(autoencoder, folder)}


def _denoiser_metadata(config: Import, given: Given) -> dict[str, Any]:
    """Return what sampling needs. Raises DataError where the prediction does not suit the schedule."""
    process = given.process
    try:
        predictions.check(process.prediction, schedule(process.kind, process.num_steps, process.zero_terminal_snr))
    except ValueError as error:
        raise DataError(f"{config.path} cannot be sampled: {error}", "give another model") from None
    diffusion = Diffusion.model_validate(
        {
            "schedule": process.kind,
            "num_steps": process.num_steps,
            "zero_terminal_snr": process.zero_terminal_snr,
            "prediction": process.prediction,
            "weighting": _WEIGHTINGS[process.prediction],
            "shift": process.shift,
            "learn_variance": given.denoiser.config.learn_sigma,
        }
    )
    return {
        "diffusion": diffusion.model_dump(mode="json"),
        "time_convention": "t = 0 is data, t = 1 is noise",
        "label_dropout": given.denoiser.config.label_dropout,
    }


def _claim(
    config: Import, kind: str, folder: Path, settings: dict[str, Any], inputs: dict[str, Any], progress: Progress
) -> StageRun:
    command = shlex.join([*config.words, *shlex.split(command_line("import", config))[2:]])
    recipe = yaml.safe_dump({"import": config.model_dump(mode="json", exclude={"replace"})}, sort_keys=False)
    return claim(folder, Identity(kind, command, settings, inputs, recipe), config.replace, progress.warn)
