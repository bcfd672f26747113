"""`ldm report`: a run in, one HTML page out, with its curves, pictures and numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core import files
from ..core.data.images import is_picture
from ..core.errors import DataError
from ..core.progress import Outcome, Progress
from ..core.report.page import Card, Chapter, Page, Picture, render
from .configs import NOISY
from .configs.report import Report
from .handover import command_line
from .run_charts import against_settings, best_state, measurements, training_curves
from .run_gaps import gaps
from .run_tables import number_tables
from .story import Folder, Judged, folders, how, judged_alike, judgements, plain, samples

TITLES = {
    "vqvae": "Autoencoder",
    "latents": "Latents",
    "dit": "Denoiser",
    "classifier": "Classifier",
    NOISY: "Classifier of noisy latents",
}
BESIDE = {"classifier": "judges samples", NOISY: "guides samples"}


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
    drawn, judged = samples(root), judgements(root)
    page = Page(
        title=f"Run {config.name}",
        subtitle=_subtitle(stages),
        cards=[*_cards(stages, drawn, judged)],
        chapters=[
            chapter
            for chapter in map(_safe, _chapters(root, stages, drawn, judged))
            if chapter.pictures or chapter.tables
        ],
        colophon=_colophon(stages),
        gaps=[*gaps(config, stages, drawn, judged)],
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


def _cards(stages: dict[str, Folder], drawn: Sequence[Folder], judged: Sequence[Judged]) -> Iterator[Card]:
    """Yield the links of the chain from images to numbers, then what stands beside it."""
    yield from (_card(stages[kind]) for kind in stages if kind not in BESIDE)
    count = sum(len(one.facts["images"]) for one in drawn)
    sets = [f"{count:,} images in {len(drawn):,} sets", *dict.fromkeys(how(one.facts["sampling"]) for one in drawn)]
    yield Card("Samples", "complete" if drawn else "missing", _shortened(sets) if drawn else ())
    told = [f"{len(judged):,} judgements", *(_headline(one, document) for one, document in judged)]
    yield Card("Numbers", "complete" if judged else "missing", _shortened(told) if judged else ())
    yield from (_card(stages[kind]) for kind in BESIDE if stages[kind].state != "missing")


def _headline(folder: Folder, document: dict[str, Any]) -> str:
    """Say what was judged, and its first number."""
    seen, number = document["conditions"], next(iter(document["numbers"].items()), None)
    of = how(seen["sampling"]) if "sampling" in seen else folder.path.name
    return of + (f": {plain(number[0])} {number[1]:.4g}" if number else "")


def _shortened(lines: Sequence[str], most: int = 6) -> list[str]:
    return [*lines[:most], *([f"and {len(lines) - most} more"] if len(lines) > most else [])]


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
    if (best := best_state(stage)) is not None:
        lines.append(best)
    if stage.seconds:
        speed = f", {stage.images_per_second:,.0f} images/s" if stage.images_per_second else ""
        lines.append(f"{_duration(stage.seconds)}{speed}")
    return Card(TITLES[stage.kind], stage.state, lines, stage.changed, BESIDE.get(stage.kind, ""))


def _chapters(
    root: Path, stages: dict[str, Folder], drawn: Sequence[Folder], judged: Sequence[Judged]
) -> Iterator[Chapter]:
    """Lay the report out, from the images drawn to how they were learned."""
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
        tables=[*number_tables(judged)],
    )
    yield Chapter(
        "Against guidance and steps",
        "Samples of this run that differ in one setting only.",
        pictures=[*against_settings(judged, drawn), *_sweep_grid(root)],
    )
    yield Chapter(
        "Drawn or remembered",
        "Some samples, each beside the reference images nearest to it in feature space. A copy stands beside its twin.",
        pictures=[*_nearest(judged)],
    )
    yield Chapter("Read as", "", pictures=[*_confusions(judged)])
    yield Chapter(
        "Training the denoiser",
        "The loss of a denoiser levels off early and says little: look at the samples along the way.",
        pictures=[*_curves(stages["dit"]), *measurements(stages["dit"]), *_along_the_way(stages["dit"])],
    )
    yield Chapter(
        "Training the autoencoder",
        "",
        pictures=[*_curves(stages["vqvae"]), *_reconstructions(stages["vqvae"], judged)],
    )
    yield Chapter("Training the classifiers", "", pictures=[*_curves(stages["classifier"]), *_curves(stages[NOISY])])


def _grids(drawn: Sequence[Folder]) -> Iterator[Picture]:
    for folder in drawn:
        if (folder.path / "grid.png").is_file():
            yield Picture(how(folder.facts["sampling"]), folder.path / "grid.png", command=_typed(folder))


def _paths(drawn: Sequence[Folder]) -> Iterator[Picture]:
    for folder in drawn:
        if (folder.path / "progressive.png").is_file():
            yield Picture(how(folder.facts["sampling"]), folder.path / "progressive.png", command=_typed(folder))


def _nearest(judged: Sequence[Judged]) -> Iterator[Picture]:
    """Show what references are nearest to some samples; of sets judged alike, for the set that is nearest to them."""
    for several in judged_alike(judged):
        folder, document = min(several, key=lambda one: _number(one[1], "nearest_ratio", math.inf))
        yield from _picture(
            folder, document, "nearest.png", "samples, each beside the references nearest to it", several
        )


def _confusions(judged: Sequence[Judged]) -> Iterator[Picture]:
    """Show which class was read as which; of sets judged alike, in the one that is read best."""
    for several in judged_alike(judged):
        folder, document = max(several, key=lambda one: _number(one[1], "class_accuracy", -math.inf))
        yield from _picture(folder, document, "confusion.png", "class asked for, and class read", several)


def _picture(
    folder: Folder, document: dict[str, Any], name: str, caption: str, several: Sequence[Judged]
) -> Iterator[Picture]:
    if (folder.path / name).is_file():
        of = how(document["conditions"]["sampling"]) if "sampling" in document["conditions"] else folder.path.name
        others = f", of {len(several)} sets" if len(several) > 1 else ""
        yield Picture(f"{of}{others}: {caption}, in {document['conditions']['extractor']} features", folder.path / name)


def _number(document: dict[str, Any], name: str, default: float) -> float:
    found = (value for key, value in document["numbers"].items() if key.partition("[")[0] == name)
    return next(found, default)


def _curves(stage: Folder) -> Iterator[Picture]:
    return training_curves(stage, TITLES[stage.kind])


def _sweep_grid(root: Path) -> Iterator[Picture]:
    if (path := root / "sweep" / "grid.png").is_file():
        yield Picture("The same seeds in each row", path)


def _along_the_way(stage: Folder) -> Iterator[Picture]:
    """Show the first previews, the last, and two between."""
    grids = sorted((stage.path / "samples").glob("*.png"))
    for index in sorted({0, len(grids) // 3, 2 * len(grids) // 3, len(grids) - 1} & set(range(len(grids)))):
        yield Picture(f"Samples after {int(grids[index].stem):,} images, always of the same seeds", grids[index])


def _reconstructions(stage: Folder, judged: Sequence[Judged]) -> Iterator[Picture]:
    grids = sorted((stage.path / "reconstructions").glob("*.png"))
    for path in grids[-1:]:
        yield Picture(f"Held-out images above their reconstructions, after {int(path.stem):,} images", path)
    for folder, _ in judged:
        if (folder.path / "reconstructions.png").is_file():
            yield Picture("The worst, the middling and the best of all held out", folder.path / "reconstructions.png")


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


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"
