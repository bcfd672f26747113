"""`ldm report`: a run in, one HTML page out, with its curves, pictures and numbers; or a comparison of several."""

import math
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import replace

from ...core import files
from ...core.errors import ConfigError, DataError
from ...core.images.decode import decode_picture, is_picture
from ...core.progress import Outcome, Progress
from ...core.runs.outputs import command_line
from ...core.runs.roles import generators
from ...core.runs.run import IDENTITY, StageRun
from ..configs.report import Report
from ..table import KINDS
from .reporting.advice import advice
from .reporting.cards import cards
from .reporting.charts import POSTERIOR, against_settings, measurements, scale_curves, training_curves
from .reporting.comparison import comparison
from .reporting.gaps import gaps
from .reporting.page import Chapter, Page, Picture, render
from .reporting.tables import number_tables
from .summary import Summary, evaluated_alike, grouped, numbered, read
from .words import how, plain

_SETS = 6  # sets of samples, at most, that are shown without being asked for


def run(config: Report, progress: Progress) -> Outcome:
    """Write the report of a run, or the comparison of several. Returns where it lies."""
    path = config.path
    if path.is_dir():
        raise ConfigError(f"`out={path}` is a folder", "give the name of a file in it")
    page = _comparison(config, progress) if config.others else page_of(config, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_bytes(path, render(page).encode(errors="replace"))
    size = path.stat().st_size / 1e6
    summary = {"report": f"{path}, {size:.1f} MB, {len(page.chapters)} chapters"}
    return Outcome(path.parent if config.others else config.root, summary=summary, pictures=[])


def page_of(config: Report, progress: Progress) -> Page:
    found = read_run(config, config.name, progress)
    for folder in found.left_out:
        progress.warn(f"left out of the report: {folder}, since the run has another of its kind")
    return Page(
        title=f"Run {config.name}",
        subtitle=_subtitle(found.stages),
        cards=[*cards(found)],
        chapters=_shown(_chapters(found), progress),
        colophon=_colophon(found.stages),
        advice=[*advice(config, found)],
        gaps=[*gaps(config, found)],
    )


def _comparison(config: Report, progress: Progress) -> Page:
    runs = {name: read_run(config, name, progress) for name in config.compared}
    colophons = [f"{name}: {line}" for name, run in runs.items() for line in _colophon(run.stages)]
    return Page(
        title=" and ".join(runs),
        subtitle=f"{len(runs)} runs compared",
        chapters=_shown(comparison(runs), progress),
        colophon=colophons,
    )


def read_run(config: Report, name: str, progress: Progress) -> Summary:
    """Read one of the runs. Raises DataError naming those that there are, or how to begin one."""
    root = config.runs_dir / name
    if not root.is_dir():
        known = sorted(path.name for path in config.runs_dir.glob("*") if any(path.glob(f"*/{IDENTITY}")))
        hint = (
            f"name one of the runs there are: {', '.join(known)}"
            if known
            else "train one: ldm train-vqvae --data FOLDER"
        )
        raise DataError(f"{root} does not exist", hint)
    found = read(root, lambda damage: progress.warn(f"left out of the report: {damage}"))
    if all(stage.state == "missing" for stage in found.stages.values()):
        begin = command_line("train-vqvae", config.model_copy(update={"name": name}))
        raise DataError(f"{root} holds no stage of a run", f"begin one: {begin}")
    return found


def _shown(chapters: Iterable[Chapter], progress: Progress) -> list[Chapter]:
    """Return the chapters that have something to show."""
    safe = [_safe(chapter, progress) for chapter in chapters]
    return [chapter for chapter in safe if chapter.pictures or chapter.tables]


def _safe(chapter: Chapter, progress: Progress) -> Chapter:
    """Leave out damaged pictures and files that only have the name of one, and warn: the page may be passed on."""
    return replace(chapter, pictures=[one for one in chapter.pictures if one.svg or _is_whole(one, progress)])


def _is_whole(picture: Picture, progress: Progress) -> bool:
    assert picture.file is not None
    try:
        if picture.run is not None:
            picture.run.file(picture.file.name)
        if not is_picture(picture.file):
            raise DataError(f"{picture.file} is not a picture")
        decode_picture(picture.file.read_bytes(), str(picture.file))
    except DataError as error:
        progress.warn(f"left out of the report: {error.message}")
        return False
    return True


def _subtitle(stages: dict[str, StageRun]) -> str:
    data = stages["autoencoder"].config.get("data")
    data = data if isinstance(data, dict) else {}
    names = stages["autoencoder"].metadata.get("class_names", [])
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    size = " x ".join(str(each) for each in (data.get("image_width"), data.get("image_size", "?")) if each)
    return f"{data.get('source', 'images')} at {size} px; {len(names)} classes: {shown}"


def _chapters(run: Summary) -> Iterator[Chapter]:
    """Lay the report out, from the images drawn to how they were learned."""
    autoencoder, generator = run.stages["autoencoder"], run.generator
    yield Chapter("Samples", "The first seeds of each class; nothing is picked.", pictures=[*_grids(run)])
    yield Chapter(
        "From noise to image",
        "Where the sampler is at some of its steps: of a denoiser, with what it takes the image to be there.",
        pictures=[*_paths(run)],
    )
    yield Chapter(
        "Numbers",
        "Over each table stands what its numbers depend on; beside them are those of real images in the place of the"
        " samples. Of few images all are inexact, and distances are too large. Class accuracy"
        " stands beside that of real images that nothing was trained on. Only Inception's features give a FID.",
        tables=[*number_tables(run.evaluations)],
    )
    yield Chapter(
        "Against guidance and steps",
        "Samples of this run that differ in nothing else.",
        pictures=[*against_settings(run), *_sweep_grid(run.sweep)],
    )
    yield Chapter(
        "Drawn or remembered",
        "Some samples, each beside the reference images nearest to it in feature space. A copy stands beside its twin.",
        pictures=[*_least(run, "nearest_ratio", "nearest.png", "nearest to its reference")],
    )
    yield Chapter(
        "Asked for and read",
        "Which class samples of each class are read as, and beside them the real images that nothing was trained on.",
        pictures=[*_least(run, "class_accuracy", "confusion.png", "read worst")],
    )
    yield Chapter(
        f"Training the {KINDS[generator.kind].title.lower()}",
        "The loss levels off early and says little: look at the samples along the way.",
        pictures=[*_curves(generator), *measurements(generator), *_along_the_way(generator)],
    )
    yield Chapter(
        "Training the autoencoder",
        "",
        pictures=[*_curves(autoencoder), *_reconstructions(run), *_from_prior(autoencoder)],
    )
    for phase in run.phases:
        yield Chapter(
            f"Training the autoencoder, phase {phase.path.name}",
            "",
            pictures=[*_curves(phase), *_last_reconstructions(phase)],
        )
    made = [role.name for role in generators()]
    others = [stage for role, stage in run.stages.items() if role not in ("autoencoder", *made)]
    yield Chapter("Training the classifiers", "", pictures=[picture for stage in others for picture in _curves(stage)])


def _grids(run: Summary) -> Iterator[Picture]:
    """Show the samples: at several guidance scales where there are such, the others when asked for."""
    first = (_at_several_scales(run) or run.samples)[:_SETS]
    for folder in [*first, *(one for one in run.samples if one not in first)]:
        if folder.has("grid.png"):
            caption = how(folder.metadata["sampling"])
            yield Picture(caption, folder.path / "grid.png", folder, command=_typed(folder), folded=folder not in first)


def _at_several_scales(run: Summary) -> list[StageRun]:
    """Return sets that differ in their guidance alone: of several such groups the one of most scales, then steps."""

    def but_scale(one: StageRun) -> object:
        others = {name: value for name, value in one.metadata["sampling"].items() if name != "cfg"}
        images = [{**image, "file": None} for image in one.metadata["images"]]
        return [others, images, {role: entry["fingerprint"] for role, entry in one.inputs.items()}]

    by_scale = [{one.metadata["sampling"]["cfg"]: one for one in group} for group in grouped(run.samples, but_scale)]
    most = max(by_scale, key=lambda group: (len(group), _steps(group)), default={})
    return [most[scale] for scale in sorted(most)] if len(most) > 1 else []


def _steps(group: dict[float, StageRun]) -> int:
    return int(next(iter(group.values())).metadata["sampling"]["steps"])


def _paths(run: Summary) -> Iterator[Picture]:
    for folder in run.samples:
        if folder.has("progressive.png"):
            yield Picture(
                how(folder.metadata["sampling"]), folder.path / "progressive.png", folder, command=_typed(folder)
            )


def _least(run: Summary, number: str, name: str, chosen_for: str) -> Iterator[Picture]:
    """Show a picture of each evaluation; of sets evaluated alike, of the one whose number is least.

    chosen_for: what that one is of the others that there are.
    """
    for several in evaluated_alike(run.evaluations):
        chosen = min(several, key=lambda one: one.number(number, math.inf))
        if chosen.run.has(name):
            which = f", of {len(several)} sets the one {chosen_for}" if len(several) > 1 else ""
            features = chosen.conditions.get("extractor", "unknown")
            yield Picture(f"{chosen.title}{which}; {features} features", chosen.run.path / name, chosen.run)


def _curves(stage: StageRun) -> Iterator[Picture]:
    title = KINDS[stage.kind].title
    yield from training_curves(stage, title)
    yield from scale_curves(stage, title)


def _sweep_grid(sweep: StageRun) -> Iterator[Picture]:
    if sweep.has("costs.png"):
        yield Picture("What images cost, in evaluations of the network and in time", sweep.path / "costs.png", sweep)
    if sweep.has("grid.png"):
        yield Picture("The same seeds in every row, at each scale and number of steps", sweep.path / "grid.png", sweep)


def _along_the_way(stage: StageRun) -> Iterator[Picture]:
    """Show the first previews, the last, and two between."""
    grids = [*numbered(stage.path / "samples").items()]
    for index in sorted({0, len(grids) // 3, 2 * len(grids) // 3, len(grids) - 1} & set(range(len(grids)))):
        seen, path = grids[index]
        yield Picture(f"Samples after {seen:,} images, always of the same seeds", path)


def _reconstructions(run: Summary) -> Iterator[Picture]:
    yield from _last_reconstructions(run.stages["autoencoder"])
    for each in run.evaluations:
        if each.run.has(name := "reconstructions.png"):
            yield Picture("The worst, the middling and the best of all held out", each.run.path / name, each.run)


def _last_reconstructions(stage: StageRun) -> Iterator[Picture]:
    for seen, path in [*numbered(stage.path / "reconstructions").items()][-1:]:
        yield Picture(f"Held-out images above their reconstructions, after {seen:,} images", path)


def _from_prior(stage: StageRun) -> Iterator[Picture]:
    """Show what the latent prior decodes to, with how far the posterior is from it."""
    for seen, path in [*numbered(stage.path / "prior").items()][-1:]:
        curves = {name: stage.curve(name) for name in POSTERIOR}
        measured = [f"{plain(name)} {curve[-1][1]:.3g}" for name, curve in curves.items() if curve]
        caption = (
            "Decoded from latents of N(0, I), above those of a Gaussian fitted to held-out images, after"
            f" {seen:,} images"
        )
        yield Picture("; ".join([caption, *measured]), path)


def _typed(folder: StageRun) -> str:
    """The command as it was typed, without the place of its program."""
    words = [str(word) for word in folder.provenance.get("argv", [])]
    return shlex.join(["ldm", *words[1:]]) if words else folder.command


def _colophon(stages: dict[str, StageRun]) -> list[str]:
    """Say what made the run."""
    made = [stage.provenance for stage in stages.values() if stage.provenance]
    if not made:
        return []
    last = max(made, key=lambda provenance: str(provenance["created"]))
    packages = ", ".join(f"{name} {version}" for name, version in last["packages"].items() if version)
    commit = f", commit {last['git'][:12]}" if last.get("git") else ""
    return [f"ldm {last['ldm']}{commit}; Python {last['python']}; {packages}; {last['platform']}; {last['created']}"]
