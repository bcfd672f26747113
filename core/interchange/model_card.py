"""The model card of an export: what the model was made of, what it was seen to do, and what to know before its use."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import files
from ..autoencoders.codec import Autoencoder
from ..conditioning.conditioning import Request
from ..conditioning.text import TextConditioning
from ..errors import DataError
from ..images.decode import is_picture
from ..images.sets import data_of
from ..metrics.document import number_rows, read_evaluation
from ..pipeline.model import Model
from ..runs.roles import EVALUATION, SAMPLES, Role
from ..runs.run import MANIFEST, StageRun, open_run
from .conversion import Agreement, other_times
from .exporters import autoencoder_exporter, denoiser_exporter
from .pipeline import Parts, labels_in_diffusers
from .prompts import PROMPTS
from .scheduler import FLOW
from .transformer import NULL_CLASS
from .usage import code_of

GRID = "grid.png"
_TRAINING = ("images", "batch_size", "lr", "decay", "ema")


@dataclass(frozen=True)
class Shown:
    """What a run has to show of its denoiser: the newest grid of samples, how they were drawn, and what was measured.

    numbers: the document of each evaluation, by the label of what was evaluated.
    """

    grid: Path | None
    sampling: dict[str, Any]
    numbers: dict[str, dict[str, Any]]

    @property
    def fingerprint(self) -> str:
        grid = files.sha256_file(self.grid) if self.grid is not None else None
        return files.sha256_json([grid, self.sampling, self.numbers])


def look_for(root: Path, denoiser: StageRun, warn: Callable[[str], None], cfg: float | None = None) -> Shown:
    """Find a run's samples and evaluations that were made with this denoiser, or with its autoencoder.

    warn: is called with each that is damaged, and not shown. cfg: the guidance scale of the samples, where others are
    not to be shown.
    """
    samples = [made for made in _finished(root / "samples", SAMPLES, warn) if _made_with(made, "denoiser", denoiser)]
    samples = [made for made in samples if cfg is None or made.metadata["sampling"].get("cfg") == cfg]
    samples.sort(key=lambda made: (made.path / MANIFEST).stat().st_mtime)
    newest = samples[-1] if samples else None
    known = {made.fingerprint for made in samples}
    known.add(denoiser.manifest["inputs"]["autoencoder"]["fingerprint"])
    evaluated = {
        made.path.name: read_evaluation(made)
        for made in _finished(root / "eval", EVALUATION, warn)
        if any(entry["fingerprint"] in known for entry in made.manifest["inputs"].values())
    }
    grid = newest.path / GRID if newest is not None and newest.has(GRID) and is_picture(newest.path / GRID) else None
    return Shown(grid, newest.metadata["sampling"] if newest is not None else {}, evaluated)


def _finished(folder: Path, role: Role, warn: Callable[[str], None]) -> Iterator[StageRun]:
    for manifest in sorted(folder.glob(f"*/{MANIFEST}")):
        try:
            made = open_run(manifest.parent, role, f"ldm {role.name}")
            made.verify()
        except DataError as error:  # It is not what was asked for.
            warn(f"not shown on the model card: {error.message}")
            continue
        yield made


def _made_with(made: StageRun, role: str, producer: StageRun) -> bool:
    return bool(made.manifest["inputs"].get(role, {}).get("fingerprint") == producer.fingerprint)


def card(
    denoiser: StageRun,
    reader: StageRun,
    shown: Shown,
    model: Model,
    agreement: Agreement,
    parts: Parts,
    request: Request | None = None,
) -> str:
    """Return the card, Markdown under a block of metadata, without a licence: that is for its owner to choose.

    reader: the stage that read the images which it was trained on. request: the prompts that are given as tensors, if
    they are.
    """
    from huggingface_hub import ModelCard, ModelCardData  # here, since it takes a second to import

    metadata, names = denoiser.metadata, model.conditioning.class_names
    reads_texts = isinstance(model.conditioning, TextConditioning)
    kind = "class-conditional" if names else "text-conditional" if reads_texts else "unconditional"
    data = ModelCardData(
        library_name="diffusers",
        tags=["diffusers", denoiser_exporter(model.network).TITLE, "latent-diffusion", kind, "ldm"],
    )
    picture = [f"![samples]({GRID})", ""] if shown.grid is not None else []
    body = [
        f"# {'An' if kind[0] == 'u' else 'A'} {kind} latent diffusion model",
        "",
        f"Draws images of {metadata['image_size']} × {metadata['image_size']} pixels"
        f"{f' of {len(names)} classes' if names else ''}."
        f" {'Exported' if 'imported' in metadata else 'Trained and exported'} with `ldm`; a licence is for you to add"
        " to the block above.",
        "",
        *picture,
        "## Use",
        "",
        *_use(model, metadata, shown, parts, request),
        "",
        *[f"- {note}" for note in _notes(model, parts)],
        "",
        *(["## Classes", "", *_fenced(json.dumps(names, ensure_ascii=False), "json"), ""] if names else []),
        "## Data",
        "",
        *_data(reader),
        "",
        "## Settings",
        "",
        *_table(("setting", "value"), _settings(denoiser, model)),
        "",
        "## Numbers",
        "",
        *_numbers(shown, agreement),
        "",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(body), ignore_metadata_errors=True))


def autoencoder_card(stage: StageRun, autoencoder: Autoencoder, class_name: str, agreement: str) -> str:
    """Return the card of an autoencoder alone."""
    from huggingface_hub import ModelCard, ModelCardData  # here, since it takes a second to import

    metadata, train = stage.metadata, stage.config.get("train", {})
    data = ModelCardData(library_name="diffusers", tags=["diffusers", "autoencoder", "ldm"])
    settings = [
        ("latents", " × ".join(map(str, metadata["latent_shape"]))),
        ("smaller", f"{autoencoder.downsampling} times"),
        ("parameters", f"{sum(p.numel() for p in autoencoder.parameters()) / 1e6:.1f} M"),
        *((f"model.{name}", str(value)) for name, value in autoencoder.codec.describe().items()),
        *((f"train.{name}", str(train[name])) for name in _TRAINING if name in train),
    ]
    names = {"val_psnr": "PSNR, dB", "val_ssim": "SSIM"}
    numbers = [(words, f"{metadata[name]:.4g}") for name, words in names.items() if name in metadata]
    code = (
        "import torch\n"
        f"from diffusers import {class_name}\n"
        "\n"
        f'vae = {class_name}.from_pretrained("PATH OF THIS FOLDER", torch_dtype=torch.float32)'
    )
    body = [
        "# An autoencoder of images",
        "",
        f"For images of {metadata['image_size']} × {metadata['image_size']} pixels in [-1, 1]. Latents have mean 0 and"
        " deviation 1 in every channel. Exported with `ldm`; a licence is for you to add to the block above.",
        "",
        *_fenced(code, "python"),
        "",
        *[f"- {note}" for note in autoencoder_exporter(autoencoder).notes(autoencoder, metadata["latent_shape"][1])],
        "",
        *("## Data", "", *_data(stage), ""),
        *("## Settings", "", *_table(("setting", "value"), settings), ""),
        *("## Numbers", "", f"The export against `ldm`, on random latents: {agreement}.", ""),
        *_table(("held-out images", "value"), numbers),
        "",
    ]
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(body), ignore_metadata_errors=True))


def _use(model: Model, metadata: Mapping[str, Any], shown: Shown, parts: Parts, request: Request | None) -> list[str]:
    guidance = shown.sampling.get("cfg", 3.0) if metadata["label_dropout"] > 0 else 1.0
    return _fenced(code_of(model, parts, request, guidance, metadata["image_size"]), "python")


def _notes(model: Model, parts: Parts) -> Iterator[str]:
    """Yield what differs from `ldm sample`, and from other pipelines."""
    if parts.why_not is not None:
        yield f"It has no text encoder: {parts.why_not}."
        yield (
            f"`{PROMPTS}` has prompts as tensors, and the prompts themselves by number in its header. For"
            ' other prompts, `ldm export FOLDER --name RUN --part prompts --prompt "…"` writes such a file.'
        )
    elif parts.stock.lower and parts.encoders:
        yield "The pipeline brings prompts into lower case, which `ldm sample` does not: give them in lower case there."
    steps, student = model.schedule.num_steps, model.student
    if student is not None:
        yield (
            f"It was distilled to {student.steps} steps, with guidance of scale {student.guidance[0]:g} inside: give"
            f" `num_inference_steps={student.steps}` and `guidance_scale=1`, no others."
        )
    elif model.schedule.variance_preserving:
        yield (
            f"Give a number of steps that divides {steps}: with others diffusers takes the previous step from elsewhere"
            " than its own list. The sampler is DDIM without noise, on trailing steps."
        )
    else:
        name = type(parts.scheduler).__name__
        if name == FLOW:
            yield f"Needs a diffusers with `{FLOW}`."
            yield f"Its steps are those of `ldm sample` where their number divides {steps}."
        else:
            yield f"With these `sigmas` it takes the steps of `ldm sample`; without them `{name}` takes others."
    yield from other_times(model)
    yield "The same noise gives the same image as `ldm sample`, but a seed does not: diffusers draws its own noise."
    if model.conditioning.class_names and student is None and parts.why_not is None:
        yield from _notes_on_classes(model)
    if model.diffusion.learn_variance:
        yield "The pipeline leaves the learned variance aside, as DDIM does."
    yield from autoencoder_exporter(model.autoencoder).notes(model.autoencoder, model.latent_shape[1])


def _notes_on_classes(model: Model) -> Iterator[str]:
    if model.conditioning.has_null:
        yield "`guidance_scale` is s in u + s (c − u), as `ldm sample --cfg`, on all channels; 1 or less is none."
    else:
        yield "There is no null class: give `guidance_scale=1`. With any other, the images are NaN, which show black."
    if model.network.config.num_classes < NULL_CLASS:
        yield f"Labels {model.network.config.num_classes} to 999 are padding, as diffusers has its null class at 1000."
    names = model.conditioning.class_names
    if list(labels_in_diffusers(names)) != sorted(names):
        yield "Some classes have commas in their names, or share one: `pipe.labels` has what they are called there."


def _data(reader: StageRun) -> list[str]:
    data = data_of(reader)
    if data.source is None:
        return ["Not known: the model was imported."]
    made = {"crop": "cropped", "pad": "padded", "stretch": "stretched"}[data.fit]
    how = f"{made} to {data.image_size} pixels, {'mirrored at random' if data.flip else 'not mirrored'}"
    return [f"`{_inline(Path(data.source).name)}`, {how}."]


def _settings(denoiser: StageRun, model: Model) -> Iterator[tuple[str, str]]:
    config, metadata, network = denoiser.config, denoiser.metadata, model.network
    exporter = denoiser_exporter(network)
    yield "denoiser", f"{exporter.TITLE}, {exporter.summary(network.config)}"
    yield "parameters", f"{sum(p.numel() for p in network.parameters()) / 1e6:.1f} M"
    yield "latents", " × ".join(map(str, model.latent_shape))
    yield "autoencoder", f"{model.autoencoder.codec.kind}, {model.autoencoder.downsampling} times smaller"
    for name, value in metadata["diffusion"].items():
        yield f"diffusion.{name}", str(value)
    yield "label dropout", f"{metadata['label_dropout']:g}"
    if "images_seen" in metadata:
        yield "images seen", f"{metadata['images_seen']:,}"
    for name in _TRAINING:
        if name in config.get("train", {}):
            yield f"train.{name}", str(config["train"][name])
    made = denoiser.manifest.get("provenance")
    if isinstance(made, dict):
        yield "made with", f"ldm {made.get('ldm')}, torch {(made.get('packages') or {}).get('torch')}"


def _numbers(shown: Shown, agreement: Agreement) -> list[str]:
    """Return tables of what was measured, each number beside the same one of real images."""
    lines = [f"The export against `ldm`, on random latents, before rounding: {agreement}."]
    for label, document in shown.numbers.items():
        conditions = document["conditions"]
        table = _table(("number", "value", "real against real"), number_rows(document))
        lines += ["", f"### {_inline(label)}", "", *table, ""]
        known = {name: value for name, value in conditions.items() if not isinstance(value, (dict, list))}
        # Of a path, the last part: where the owner keeps images is nobody's business.
        lines += [f"- {_inline(name)}: {_inline(Path(str(value)).name)}" for name, value in known.items()]
        drawn = [f"{name} {value}" for name, value in conditions.get("sampling", {}).items() if value is not None]
        lines += [f"- sampling: {_inline(', '.join(drawn))}"] if drawn else []
    return lines


def _table(header: tuple[str, ...], rows: Any) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(_inline(cell) for cell in row) + " |" for row in rows),
    ]


def _fenced(text: str, language: str) -> list[str]:
    return [f"````{language}", *text.splitlines(), "````"]


def _inline(text: str) -> str:
    """Keep a text of the user's within its line and its cell, and text: no tag, link or picture comes of it."""
    plain = " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("`", "'")
    return plain.replace("<", "&lt;").replace("](", "]\\(")
