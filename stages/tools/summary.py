"""A run as its report shows it: stages, samples and evaluations, each read once from its folder."""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from ...core.errors import DataError
from ...core.files import read_json
from ...core.metrics.document import read_evaluation
from ...core.runs.inputs import has_begun
from ...core.runs.roles import AUTOENCODER, EVALUATION, SAMPLES, SWEEP, Role, generators
from ...core.runs.run import IDENTITY, MANIFEST, StageRun, open_run
from ...core.settings.words import typed
from ..table import STAGES
from .directories import changed_settings, recorded_settings
from .words import how

Item = TypeVar("Item")
_RANKS = ("complete", "unfinished", "missing")


@dataclass(frozen=True)
class Evaluation:
    """A complete evaluation with its document of numbers and conditions."""

    run: StageRun
    document: Mapping[str, Any]

    @property
    def numbers(self) -> dict[str, float]:
        return dict(self.document["numbers"])

    @property
    def floor(self) -> dict[str, float]:
        """The same numbers of real images in the place of the samples, as far as they were measured."""
        return dict(self.document.get("real_against_real", {}))

    @property
    def conditions(self) -> dict[str, Any]:
        return dict(self.document["conditions"])

    @property
    def sampling(self) -> dict[str, Any] | None:
        """How its samples were drawn; None where it is not of samples of ours."""
        return self.conditions.get("sampling")

    @property
    def of_samples(self) -> bool:
        """Whether it compares samples, and not reconstructions, with real images."""
        return self.document.get("of") != "reconstructions"

    @property
    def title(self) -> str:
        """How its samples were drawn, else its label."""
        return self.run.path.name if self.sampling is None else how(self.sampling)

    def number(self, name: str, default: float) -> float:
        """Return a number by its name without that of the extractor."""
        found = (value for key, value in self.numbers.items() if key.partition("[")[0] == name)
        return next(found, default)


@dataclass(frozen=True)
class Summary:
    """What a run holds.

    stages: those that write one folder each, by role, in order, missing ones too; of several folders of one role the
    first that is complete. left_out: the other folders of these roles. samples, evaluations: the complete ones, by how
    samples were drawn, then by name.
    """

    root: Path
    stages: dict[str, StageRun]
    left_out: list[Path]
    phases: list[StageRun]
    samples: list[StageRun]
    evaluations: list[Evaluation]
    sweep: StageRun

    @property
    def generator(self) -> StageRun:
        """What the run draws from; where there is none yet, the first that is unfinished, else the usual one."""
        roles = [self.stages[role.name] for role in generators() if role.name in self.stages]
        return min(roles, key=lambda run: _RANKS.index(run.state))


def read(root: Path, warn: Callable[[str], None]) -> Summary:
    """Read a run. warn: is called with each of its directories that is damaged, and left out."""
    written = (kind for command in STAGES.values() for kind in command.writes)
    roles = {kind.role.name: kind.role for kind in written if kind.name not in kind.role.labelled}
    found = {name: [_read(role, kind, root / kind, warn) for kind in role.makers] for name, role in roles.items()}
    stages = {name: min(several, key=lambda run: _RANKS.index(run.state)) for name, several in found.items()}
    others = [run.path for name, several in found.items() for run in several if run is not stages[name]]
    evaluations = []
    for run in _labelled(EVALUATION, root, warn):
        try:
            evaluations.append(Evaluation(run, read_evaluation(run)))
        except DataError as error:
            warn(error.message)
    return Summary(
        root,
        stages,
        [folder for folder in others if has_begun(folder)],
        sorted(_labelled(AUTOENCODER, root, warn), key=lambda run: (len(run.path.name), run.path.name)),
        sorted(_labelled(SAMPLES, root, warn), key=lambda run: _order(run.metadata["sampling"])),
        sorted(evaluations, key=lambda each: _order(each.sampling or {})),
        _read(SWEEP, "sweep", root / "sweep", warn),
    )


def images_per_second(run: StageRun) -> float | None:
    """The median speed of training; of other stages that of their last session, where they go through images."""
    rates = sorted(rate for _, rate in run.curve("images_per_second"))
    return rates[len(rates) // 2] if rates else run.provenance.get("images_per_second")


def seconds(run: StageRun) -> float | None:
    """How long the work took: training by its speed, interruptions aside; other stages in their last session."""
    at, total = 0.0, 0.0
    for images, rate in run.curve("images_per_second"):
        total, at = total + (images - at) / max(rate, 1e-9), images
    return total or run.provenance.get("seconds")


def changed(run: StageRun) -> dict[str, str]:
    """Return the settings, dotted, whose value is not the default, as one would type them."""
    recorded = run.config if run.complete else recorded_settings(run.path)
    return {key: typed(value) for key, value in changed_settings(run.kind, recorded).items()}


def numbered(folder: Path) -> dict[int, Path]:
    """Return the pictures that a training drew into a folder, by the images seen, in order."""
    return {int(path.stem): path for path in sorted(folder.glob("*.png")) if path.stem.isdecimal()}


def grouped(items: Iterable[Item], by: Callable[[Item], object]) -> list[list[Item]]:
    """Put items together that have the same key, which is JSON, in the order in which keys first come."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        groups.setdefault(json.dumps(by(item), sort_keys=True), []).append(item)
    return list(groups.values())


def evaluated_alike(evaluations: Iterable[Evaluation]) -> list[list[Evaluation]]:
    """Put evaluations together that differ in nothing but how their samples were drawn; all others stand alone."""

    def conditions(each: Evaluation) -> object:
        others = {name: value for name, value in each.conditions.items() if name != "sampling"}
        return [others, None if each.sampling is not None else each.run.path.name]

    return grouped(evaluations, conditions)


def _order(sampling: Mapping[str, Any]) -> tuple[str, str, float, float]:
    """Sort samples by which state of the denoiser drew them, sampler, steps and guidance."""
    state, sampler = str(sampling.get("checkpoint", "")), str(sampling.get("sampler", ""))
    return state, sampler, float(sampling.get("steps") or 0), float(sampling.get("cfg") or 0)


def _labelled(role: Role, root: Path, warn: Callable[[str], None]) -> list[StageRun]:
    """Read the complete directories of a role that has one for each label."""
    places = [at.parent for kind in role.makers for at in sorted((root / kind).glob(f"*/{MANIFEST}"))]
    found = [_read(role, place.parent.name, place, warn) for place in places]
    return [run for run in found if run.complete]


def _read(role: Role, kind: str, folder: Path, warn: Callable[[str], None]) -> StageRun:
    """Read one folder, of its metadata what the schema checks; one that is damaged counts as unfinished."""
    command = f"ldm {role.command(kind)}"
    try:
        run = open_run(folder, role, command)
    except DataError as error:
        if (folder / MANIFEST).is_file():
            warn(error.message)
        return StageRun(folder, kind, command)
    return replace(run, manifest={**run.manifest, "facts": role.known(run.metadata)})


def progress_of(stage: StageRun) -> list[int]:
    """Return how many images an unfinished training has seen, and of how many, as far as its files say."""
    seen = [line["images"] for line in stage.lines[-1:]]
    try:
        asked = read_json(stage.path / IDENTITY)["config"]["train"]["images"]
    except (DataError, KeyError, TypeError):
        return seen
    return [*seen, asked] if seen and isinstance(asked, int) else seen
