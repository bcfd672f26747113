"""The chapters that compare several runs: settings that differ, curves in one chart, numbers and samples."""

from collections.abc import Iterator, Mapping
from typing import Any

from ....core.figures import Line, Panel, line, svg
from ....core.runs.metrics_log import CONDITIONS
from ....core.runs.roles import generators
from ....core.runs.run import StageRun
from ....core.settings.recipe_file import leaves
from ....core.settings.words import typed
from ...table import KINDS
from ..directories import as_recorded_now, recorded_inputs, recorded_settings
from ..summary import Evaluation, Summary, evaluated_alike, grouped, numbered, progress_of
from ..words import conditions_in_words, how, plain
from .charts import LOGARITHMIC, TRAINED, measured_along_the_way, measured_numbers
from .page import Chapter, Picture, Table
from .tables import number_tables, side_by_side

_LACKING = "–"
_DASHED = "--"
_STAGES_OF_DRAWING = 4  # previews of training that are shown, at most
Stages = Mapping[str, StageRun]


def comparison(runs: Mapping[str, Summary]) -> Iterator[Chapter]:
    """Yield the chapters of a comparison. runs: two or more, by name, whole or still being made."""
    stages = _compared_stages(runs)
    yield Chapter("What there is", tables=[_states(stages, runs)])
    yield Chapter(
        "Settings that differ",
        f"All others are alike. A {_LACKING} is a setting that this run's stage does not have.",
        tables=[*_settings(stages)],
    )
    yield Chapter(
        "Numbers",
        "Only what was measured alike stands in one table: with the same reference, numbers of images and features."
        " Classifiers of two runs are two kinds of features: give `ldm eval` one of them for both.",
        tables=[*_numbers(runs)],
    )
    yield Chapter("Samples of the same seeds", pictures=[*_samples(runs)])
    for title, several in stages.items():
        if sum(bool(stage.lines) for stage in several.values()) > 1:
            pictures = [*_curves(several), *_measurements(several), *_drawn_in_training(several)]
            yield Chapter(f"Training: {title.lower()}", pictures=pictures)


def _compared_stages(runs: Mapping[str, Summary]) -> dict[str, dict[str, StageRun]]:
    """Return by title the stages that at least one run has, of each run the one; generators of any kind are one."""
    drawing = {role.name for role in generators()}
    compared: dict[str, dict[str, StageRun]] = {}
    for name, run in runs.items():
        for role, stage in run.stages.items():
            if role not in drawing and stage.state != "missing":
                compared.setdefault(KINDS[stage.kind].title, {})[name] = stage
        if run.generator.state != "missing":
            compared.setdefault("Generator", {})[name] = run.generator
    order = [KINDS[stage.kind].title for stage in next(iter(runs.values())).stages.values()]
    place = {title: index for index, title in enumerate([*order[:2], "Generator", *order[2:]])}
    return dict(sorted(compared.items(), key=lambda item: place.get(item[0], len(place))))


def _states(stages: Mapping[str, Stages], runs: Mapping[str, Summary]) -> Table:
    rows = [
        (title, *(_state(several[name]) if name in several else "none of its own" for name in runs))
        for title, several in stages.items()
    ]
    rows.append(("Sets of samples", *(str(len(run.samples)) for run in runs.values())))
    rows.append(("Evaluations", *(str(len(run.evaluations)) for run in runs.values())))
    return Table(("", *runs), rows)


def _state(stage: StageRun) -> str:
    seen = stage.metadata.get("images_seen")
    if stage.complete:
        return "complete" + (f", {seen:,} images seen" if isinstance(seen, int) else "")
    return ", ".join([stage.state, *filter(None, [" of ".join(f"{count:,}" for count in progress_of(stage))])])


def _settings(stages: Mapping[str, Stages]) -> Iterator[Table]:
    """Set the settings that differ side by side, for each stage that two runs have."""
    for title, several in stages.items():
        if len(several) < 2:
            continue
        recorded = {name: _recorded(stage) for name, stage in several.items()}
        keys = dict.fromkeys(key for values in recorded.values() for key in values)
        rows = [(key, *(values.get(key, _LACKING) for values in recorded.values())) for key in keys]
        differing = [row for row in rows if len(set(row[1:])) > 1]
        if differing:
            yield Table((title, *several), differing)


def _recorded(stage: StageRun) -> dict[str, str]:
    """Return a stage's settings as one would type them, with its command and the fingerprints of what it reads."""
    settings = dict(leaves(as_recorded_now(stage.kind, stage.config or recorded_settings(stage.path))))
    values = {"command": KINDS[stage.kind].name, **{key: typed(value) for key, value in settings.items()}}
    inputs = {f"contents of {role}": digest[:12] for role, digest in recorded_inputs(stage.path).items()}
    versions = {"ldm": str(stage.provenance["ldm"])} if stage.provenance else {}
    return {**values, **inputs, **versions}


def _numbers(runs: Mapping[str, Summary]) -> Iterator[Table]:
    """Set evaluations of several runs that were made alike side by side; fold the others away, each by itself."""
    of = {id(each): name for name, run in runs.items() for each in run.evaluations}
    alone: list[Evaluation] = []
    for group in evaluated_alike(each for run in runs.values() for each in run.evaluations):
        if len({of[id(each)] for each in group}) > 1:
            yield side_by_side(group, [f"{of[id(each)]}: {each.title}" for each in group])
        else:
            alone += group
    for each in alone:
        (table,) = number_tables([each])
        yield Table(table.columns, table.rows, f"{of[id(each)]}, {table.caption}", folded=True)


def _samples(runs: Mapping[str, Summary]) -> Iterator[Picture]:
    """Show grids of the same conditions and seeds beside each other, those drawn alike if there are such."""
    of = {id(one): name for name, run in runs.items() for one in run.samples}
    drawn = [one for run in runs.values() for one in run.samples if one.has("grid.png")]
    for alike in grouped(drawn, _images):
        by_way = grouped(alike, lambda one: one.metadata["sampling"])
        shared = [group for group in by_way if len({of[id(one)] for one in group}) > 1]
        for group in shared or [alike]:
            first = {of[id(one)]: one for one in reversed(group)}
            for name in filter(first.__contains__, runs) if len(first) > 1 else ():
                caption = f"{name}: {how(first[name].metadata['sampling'])}"
                yield Picture(caption, first[name].path / "grid.png", first[name], beside=len(first))


def _images(samples: StageRun) -> list[Any]:
    return [{**image, "file": None} for image in samples.metadata["images"]]


def _curves(several: Stages) -> Iterator[Picture]:
    """Draw the numbers of a training of all runs over images seen, in one chart each; validation is dashed."""
    for label, names in TRAINED.items():
        lines = []
        for colour, (run, stage) in enumerate(several.items()):
            for name in filter(stage.curve, names):
                drawn = line(f"{run}: {plain(name)}" if len(names) > 1 else run, stage.curve(name), colour)
                lines.append(_dashed(drawn) if name != names[0] else drawn)
        if any(x > 0 for each in lines for x in each.x):
            log = "y" if label in LOGARITHMIC else ""
            yield Picture(label, svg=svg(Panel("", "images seen", label, lines, log=log)))


def _dashed(drawn: Line) -> Line:
    return Line(drawn.label, drawn.x, drawn.y, drawn.colour, _DASHED, drawn.width) if len(drawn.x) > 1 else drawn


def _measurements(several: Stages) -> Iterator[Picture]:
    """Draw what was measured of samples along the trainings, of those that were measured under the same conditions."""
    measured = [(name, measured_along_the_way(stage)) for name, stage in several.items()]
    for group in grouped([item for item in measured if item[1]], lambda item: item[1][-1][CONDITIONS]):
        seen = group[0][1][-1][CONDITIONS]
        for number in measured_numbers(seen) if len(group) > 1 else ():
            curves = {name: [(at["images"], at[number]) for at in lines if number in at] for name, lines in group}
            lines = [line(name, points, colour, True) for colour, (name, points) in enumerate(curves.items()) if points]
            if lines:
                caption = f"{plain(number)} of samples along the way: {conditions_in_words(seen)}"
                yield Picture(caption, svg=svg(Panel("", "images seen", plain(number), lines)))


def _drawn_in_training(several: Stages) -> Iterator[Picture]:
    """Show previews and reconstructions after the numbers of images that all runs have, and the last of each."""
    for folder, what in (("samples", "samples"), ("reconstructions", "held-out images above their reconstructions")):
        found = {name: numbered(stage.path / folder) for name, stage in several.items()}
        there = {name: pictures for name, pictures in found.items() if pictures}
        if len(there) < 2:
            continue
        common = sorted(set.intersection(*(set(pictures) for pictures in there.values())))
        step = max(1, -(-len(common) // _STAGES_OF_DRAWING))
        rows = [dict.fromkeys(there, images) for images in reversed(common[::-step])]
        last = {name: max(pictures) for name, pictures in there.items()}
        for row in [*rows, *([] if last in rows else [last])]:
            for name, images in row.items():
                yield Picture(f"{name}: {what} after {images:,} images", there[name][images], beside=len(there))
