"""`ldm report`: a run in, one HTML page out, with its curves, pictures and numbers."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.data.images import is_picture
from ..core.errors import DataError
from ..core.progress import Outcome, Progress
from ..core.report.charts import Series, line_chart
from ..core.report.page import Card, Chapter, Page, Picture, Table, render
from .configs import NOISY
from .configs.report import Report
from .handover import command_line
from .story import Folder, folders, judgements, samples

TITLES = {
    "vqvae": "Autoencoder",
    "latents": "Latents",
    "dit": "Denoiser",
    "classifier": "Classifier",
    NOISY: "Classifier of noisy latents",
}
OPTIONAL = ("classifier", NOISY)


def run(config: Report, progress: Progress) -> Outcome:
    """Write the report of a run. Returns where it lies."""
    root = config.root
    if not root.is_dir():
        known = sorted(path.name for path in config.runs_dir.glob("*") if path.is_dir())
        hint = f"there are {', '.join(known)}" if known else "train one: ldm train-vqvae --data FOLDER"
        raise DataError(f"{root} does not exist", hint)
    stages = folders(root)
    if all(stage.state == "missing" for stage in stages.values()):
        raise DataError(f"{root} holds no stage of a run", f"begin one: {command_line('train-vqvae', config)}")
    page = Page(
        title=f"Run {config.name}",
        subtitle=_subtitle(stages),
        cards=[_card(stage) for stage in stages.values() if stage.state != "missing" or stage.kind not in OPTIONAL],
        chapters=[chapter for chapter in map(_safe, _chapters(root, stages)) if chapter.pictures or chapter.tables],
        colophon=_colophon(stages),
    )
    path = config.out or root / "report.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, render(page).encode(errors="replace"))
    size = path.stat().st_size / 1e6
    return Outcome(root, summary={"report": f"{path}, {size:.1f} MB, {len(page.chapters)} chapters"}, pictures=[])


def _safe(chapter: Chapter) -> Chapter:
    """Leave out what is no picture, whatever its name: the page may be handed on."""
    return replace(
        chapter, pictures=[one for one in chapter.pictures if one.svg or (one.file and is_picture(one.file))]
    )


def _subtitle(stages: dict[str, Folder]) -> str:
    data = stages["vqvae"].artifact.config.get("data") if stages["vqvae"].artifact else None
    data = data if isinstance(data, dict) else {}
    names = stages["vqvae"].facts.get("class_names", [])
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"{data.get('source', 'images')} at {data.get('image_size', '?')} px; {len(names)} classes: {shown}"


def _card(stage: Folder) -> Card:
    """Say of a stage in a few lines what it was made of, how it went and what came out."""
    lines = []
    if stage.artifact is not None:
        lines += [f"from {role} {entry['path']}" for role, entry in stage.artifact.manifest["inputs"].items()]
    facts = stage.facts
    known = {
        "images_seen": "{:,} images seen",
        "val_psnr": "PSNR {:.2f} dB held out",
        "val_ssim": "SSIM {:.3f}",
        "validation_loss": "validation loss {:.4f}",
    }
    lines += [text.format(facts[name]) for name, text in known.items() if name in facts]
    if "latent_shape" in facts:
        lines.append("latents " + " × ".join(map(str, facts["latent_shape"])))
    if isinstance(facts.get("accuracy"), float):
        lines.append(f"accuracy {facts['accuracy']:.1%} held out")
    if "samples" in facts:
        lines.append(f"{facts['samples']['train']:,} for training, {facts['samples']['val']:,} held out")
    if stage.seconds:
        speed = f", {stage.images_per_second:,.0f} images/s" if stage.images_per_second else ""
        lines.append(f"{_duration(stage.seconds)}{speed}")
    return Card(TITLES[stage.kind], stage.state, lines, stage.changed)


def _chapters(root: Path, stages: dict[str, Folder]) -> Iterator[Chapter]:
    """Lay the report out, from the images drawn to how they were learned."""
    drawn, judged = samples(root), judgements(root)
    yield Chapter("Samples", "First seeds, nothing picked.", pictures=[*_grids(drawn)])
    yield Chapter(
        "From noise to image",
        "Where the sampler is at some of its steps, and what the denoiser takes the image to be there.",
        pictures=[*_paths(drawn)],
    )
    yield Chapter(
        "Numbers",
        "Beside each number stands the same one for real images in the place of the samples; under it, what it depends"
        " on. Only Inception's features give a FID.",
        tables=[*_tables(judged)],
    )
    yield Chapter(
        "Against guidance and steps",
        "Samples of this run that differ in one setting only.",
        pictures=[*_sweeps(judged)],
    )
    yield Chapter(
        "Drawn or remembered",
        "Some samples, each beside the reference images nearest to it in feature space. A copy stands beside its twin.",
        pictures=[*_pictures(judged, "nearest.png", "samples and their nearest references")],
    )
    yield Chapter("Read as", "", pictures=[*_pictures(judged, "confusion.png", "class asked for, and class read")])
    yield Chapter(
        "Training the denoiser",
        "The loss of a denoiser levels off early and says little: look at the samples along the way.",
        pictures=[*_curves(stages["dit"]), *_along_the_way(stages["dit"])],
    )
    yield Chapter(
        "Training the autoencoder",
        "",
        pictures=[*_curves(stages["vqvae"]), *_reconstructions(stages["vqvae"], judged)],
    )
    yield Chapter("Training the classifiers", "", pictures=[*_curves(stages["classifier"]), *_curves(stages[NOISY])])


def _grids(drawn: list[Folder]) -> Iterator[Picture]:
    for folder in drawn:
        if (folder.path / "grid.png").is_file():
            yield Picture(_how(folder.facts["sampling"]), folder.path / "grid.png", command=_typed(folder))


def _paths(drawn: list[Folder]) -> Iterator[Picture]:
    for folder in drawn:
        if (folder.path / "progressive.png").is_file():
            yield Picture(_how(folder.facts["sampling"]), folder.path / "progressive.png", command=_typed(folder))


def _pictures(judged: list[tuple[Folder, dict[str, Any]]], name: str, caption: str) -> Iterator[Picture]:
    for folder, document in judged:
        if (folder.path / name).is_file():
            extractor = document["conditions"].get("extractor", "")
            yield Picture(f"{folder.path.name}: {caption} ({extractor} features)", folder.path / name)


def _tables(judged: list[tuple[Folder, dict[str, Any]]]) -> Iterator[Table]:
    for folder, document in judged:
        floor = document.get("real_against_real", {})
        rows = [
            (name, f"{value:.4g}", f"{floor[name]:.4g}" if name in floor else "")
            for name, value in document["numbers"].items()
            if "_std[" not in name
        ]
        yield Table(("", "here", "real against real"), rows, f"{folder.path.name}: {_conditions(document)}")


def _conditions(document: dict[str, Any]) -> str:
    """Write what numbers depend on in one line."""
    seen = document["conditions"]
    parts = [_how(seen["sampling"])] if "sampling" in seen else []
    if "n_reference" in seen:
        parts.append(
            f"{seen.get('n_samples', 0):,} against {seen['n_reference']:,} of {seen.get('reference', 'the reference')}"
        )
    if "extractor" in seen:
        weights, resize = seen.get("weights_sha256", ""), seen.get("resize", "unknown")
        parts.append(f"{seen['extractor']} features {weights[:8]}, resize {resize}")
    if "n_latents" in seen:
        times = seen.get("times_per_latent", 0)
        parts.append(f"{seen['n_latents']:,} latents, {times} times each; {seen.get('of', '')}")
    return "; ".join(parts)


def _sweeps(judged: list[tuple[Folder, dict[str, Any]]]) -> Iterator[Picture]:
    """Draw distance and class accuracy over each setting of sampling in which alone some judgements differ."""
    sampled = [document for _, document in judged if "sampling" in document["conditions"]]
    for setting, label in (("cfg", "guidance scale"), ("steps", "steps")):
        alike: dict[str, list[dict[str, Any]]] = {}
        for document in sampled:
            others = {k: v for k, v in document["conditions"].items() if k not in ("sampling", "n_floor")}
            others |= {k: v for k, v in document["conditions"]["sampling"].items() if k != setting}
            alike.setdefault(repr(sorted(others.items(), key=lambda item: item[0])), []).append(document)
        for group in alike.values():
            values = sorted(group, key=lambda d: d["conditions"]["sampling"][setting])
            if len({d["conditions"]["sampling"][setting] for d in values}) < 2:
                continue
            for number in ("frechet_distance", "fid", "class_accuracy", "precision", "recall"):
                yield from _against(values, setting, label, number)


def _against(group: list[dict[str, Any]], setting: str, label: str, number: str) -> Iterator[Picture]:
    extractor = group[0]["conditions"].get("extractor", "")
    name = f"{number}[{extractor}]"
    points = [(float(d["conditions"]["sampling"][setting]), d["numbers"][name]) for d in group if name in d["numbers"]]
    if len(points) > 1:
        fixed = {k: v for k, v in group[0]["conditions"]["sampling"].items() if k != setting}
        svg = line_chart([Series(name, points, dots=True)], label, name)
        yield Picture(f"{name} over {label}: {_how(fixed)}", svg=svg)


def _curves(stage: Folder) -> Iterator[Picture]:
    """Draw what a stage's metrics.jsonl has of the usual numbers, each kind over images seen."""
    kinds = {
        "loss": ("loss", "val_loss"),
        "PSNR, dB": ("val_psnr",),
        "SSIM": ("val_ssim",),
        "codes in use, share": ("usage", "val_usage"),
        "perplexity of the codes": ("perplexity", "val_perplexity"),
        "accuracy": ("val_accuracy",),
        "gradient norm": ("grad_norm",),
    }
    for label, names in kinds.items():
        series = [Series(_plain(name), stage.curve(name)) for name in names if stage.curve(name)]
        if series:
            svg = line_chart(series, "images seen", label, log=label in ("loss", "gradient norm"))
            yield Picture(f"{TITLES[stage.kind]}: {label}", svg=svg)


def _along_the_way(stage: Folder) -> Iterator[Picture]:
    """Show the first previews, the last, and two between."""
    grids = sorted((stage.path / "samples").glob("*.png"))
    for index in sorted({0, len(grids) // 3, 2 * len(grids) // 3, len(grids) - 1} & set(range(len(grids)))):
        yield Picture(f"Samples after {int(grids[index].stem):,} images, always of the same seeds", grids[index])


def _reconstructions(stage: Folder, judged: list[tuple[Folder, dict[str, Any]]]) -> Iterator[Picture]:
    grids = sorted((stage.path / "reconstructions").glob("*.png"))
    for path in grids[-1:]:
        yield Picture(f"Held-out images above their reconstructions, after {int(path.stem):,} images", path)
    for folder, _ in judged:
        if (folder.path / "reconstructions.png").is_file():
            yield Picture("The worst, the middling and the best of all held out", folder.path / "reconstructions.png")


def _how(sampling: dict[str, Any]) -> str:
    """Write how images were drawn: sampler, steps, guidance, and what is unusual."""
    parts = [str(sampling["sampler"])]
    parts += [f"{sampling['steps']} steps"] if "steps" in sampling else []
    parts += [f"cfg {sampling['cfg']:g}"] if "cfg" in sampling else []
    usual = {"eta": 0.0, "cfg_rescale": 0.0, "spacing": "trailing", "autoguide_scale": 1.0, "classifier_scale": 0.0}
    usual |= {"cfg_interval": None, "cfg_channels": None, "shift": None}
    parts += [f"{_plain(key)} {sampling[key]}" for key, value in usual.items() if sampling.get(key, value) != value]
    return ", ".join(parts)


def _typed(folder: Folder) -> str:
    """The command as it was typed, without the place of its program."""
    words = [str(word) for word in folder.provenance.get("argv", [])]
    return " ".join(["ldm", *words[1:]]) if words else str(folder.artifact.command if folder.artifact else "")


def _colophon(stages: dict[str, Folder]) -> list[str]:
    """Say what made the run."""
    made = [stage.provenance for stage in stages.values() if stage.provenance]
    if not made:
        return []
    last = max(made, key=lambda provenance: str(provenance["created"]))
    packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items() if version)
    commit = f", commit {last['git'][:12]}" if last.get("git") else ""
    return [f"ldm {last['ldm']}{commit}; Python {last['python']}; {packages}; {last['platform']}; {last['created']}"]


def _plain(name: str) -> str:
    return name.replace("val_", "validation ").replace("_", " ")


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
