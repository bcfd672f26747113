"""`ldm verify`: is every byte of what `ldm` wrote what was written, and do the stages of a run fit together?"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...core import files
from ...core.autoencoders import registry as autoencoders
from ...core.denoisers import noisy_classifier
from ...core.denoisers import registry as denoisers
from ...core.denoisers.settings import NOISY
from ...core.errors import DataError, UserError
from ...core.features import classifier
from ...core.images.decode import decode
from ...core.interchange.export_record import read_record
from ...core.latents import shards
from ...core.latents.fields import fields_of
from ...core.latents.sharded import read_tables
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import input_path
from ...core.runs.lock import owner
from ...core.runs.run import IDENTITY, MANIFEST, RECIPE, StageRun, check_producer
from ...core.runs.weights import CONFIG
from ...core.settings.fields import Section, identity
from ...core.settings.recipe_file import read_settings
from ...core.training import checkpoint
from ..configs import MADE_BY, OUTPUTS, STAGES
from ..configs.folders import Verify
from .directories import (
    CHECKPOINT,
    EXPORT,
    NETWORK,
    Directory,
    as_recorded_now,
    best,
    checkpoints,
    find,
    import_of,
    imported_as,
    recognise,
)

# Roles of inputs that are directories of ours, and their kinds. Other inputs are images and weights from elsewhere.
PRODUCERS = {
    "autoencoder": "vqvae",
    "latents": "latents",
    "denoiser": "dit",
    "samples": "samples",
    "extractor": "classifier",
    "weak": "dit",
    "classifier": NOISY,
}
_NEEDED = ("autoencoder",)  # without which a denoiser and latents are of no use any more


@dataclass(frozen=True)
class Check:
    """One thing to look at; `look` raises DataError if it is wrong.

    whole: the path in which nothing may have been found wrong before, or there is nothing to look at.
    """

    look: Callable[[], object]
    path: Path
    whole: bool = False


def run(config: Verify, progress: Progress) -> Outcome:
    """Check all that lies at a path. Each problem is a warning with its remedy; raises DataError if there is any."""
    found = find(config.path)
    checks = [check for directory in found for check in _checks(directory)]
    problems: dict[str, str | None] = {}
    damaged: set[Path] = set()
    progress.start("verifying", len(checks), "checks")
    for done, check in enumerate(checks, 1):
        try:
            if not (check.whole and check.path in damaged):
                check.look()
        except DataError as error:
            damaged.add(check.path)
            if error.message not in problems:
                problems[error.message] = error.remedy
                progress.warn(str(error))
        progress.update(done)
    progress.finish()
    if problems:
        count = f"{len(problems)} problems" if len(problems) > 1 else next(iter(problems))
        remedies = list(dict.fromkeys(filter(None, problems.values())))
        raise DataError(f"{config.path} is not whole: {count}", "; then ".join(remedies))
    counts = {kind: sum(each.kind == kind for each in found) for kind in dict.fromkeys(each.kind for each in found)}
    listed = ", ".join(f"{kind} ({count})" if count > 1 else kind for kind, count in counts.items())
    return Outcome(config.path, summary={"verified": listed, "checks": f"{len(checks):,}"}, verdict="is whole")


def _checks(directory: Directory) -> Iterator[Check]:
    """Yield all there is to look at in one directory, what others rest on first."""
    path = directory.path
    if directory.kind == CHECKPOINT:
        yield Check(partial(_checkpoint_loads, path), path)
    elif directory.kind == NETWORK:
        yield Check(partial(_network_is_whole, path), path)
    elif directory.kind == EXPORT:
        yield from _export_checks(path)
    elif (writer := owner(path)) is not None:
        yield Check(partial(_fail, f"{path} is being written by {writer}", "verify it when that has ended"), path)
    else:
        yield from _stage_checks(directory)


def _export_checks(path: Path) -> Iterator[Check]:
    try:
        record = read_record(path)
    except DataError as error:
        yield Check(partial(_fail, error.message, error.remedy), path)
    else:
        for name in record.hashes:
            yield Check(partial(record.check, name), path)


def _stage_checks(directory: Directory) -> Iterator[Check]:
    path = directory.path
    remedy = f"remove {path}: the training that it is of is whole without" if directory.is_best else None
    try:
        artifact = directory.open()
    except DataError as error:
        yield Check(partial(_fail, error.message, remedy or error.remedy), path)
        if not directory.is_finished:
            yield from _unfinished_checks(directory)
    else:
        if not directory.is_best:  # The recipe first: the remedies for the others name it.
            yield Check(partial(_recipe_fits, artifact, directory.recipe_command), path)
            yield Check(partial(_identity_fits, artifact), path)
        for name in artifact.manifest["files"]:
            yield Check(partial(_file_is_whole, artifact, name, remedy), path)
        for role in PRODUCERS:
            if role in artifact.manifest["inputs"]:
                yield Check(partial(_producer_fits, artifact, role), path)
        if artifact.kind == OUTPUTS["encode"]:
            yield Check(partial(_latents_fit, artifact), path, whole=True)
    for each in checkpoints(path):
        yield Check(partial(_checkpoint_loads, each.path), path)
    if kept := best(path):
        yield from _stage_checks(kept)


def _unfinished_checks(directory: Directory) -> Iterator[Check]:
    """Look at what the command will go on from. A damaged piece goes, and is made again."""
    for shard in sorted(directory.path.glob("*.tar")):
        yield Check(partial(_read_whole_shard, shard), directory.path)
    if directory.kind == OUTPUTS["sample"]:
        for picture in sorted(directory.path.glob("[0-9]*.png")):
            yield Check(partial(_read_whole_picture, picture), directory.path)


def _fail(message: str, remedy: str | None) -> None:
    raise DataError(message, remedy)


def _file_is_whole(artifact: StageRun, name: str, remedy: str | None) -> None:
    try:
        artifact.verify(name)
    except DataError as error:
        raise DataError(error.message, remedy or error.remedy) from None


def _checkpoint_loads(path: Path) -> None:
    try:
        checkpoint.load(path)
    except DataError as error:
        remedy = f"remove {path}: training goes on from the one before, and what is finished does not need it"
        raise DataError(error.message, error.remedy or remedy) from None


def _network_is_whole(path: Path) -> None:
    try:
        _network_loads(path)
    except DataError as error:
        stage = recognise(path.parent)
        remedy = f"make it again: {stage.command()} --replace" if stage is not None and stage.is_stage else None
        raise DataError(error.message, remedy or error.remedy) from None


def _network_loads(path: Path) -> None:
    kind = files.read_json(path / CONFIG, denoisers.REMEDY).get("kind")
    if kind in denoisers.FAMILIES:
        denoisers.load(path)
    elif kind == classifier.KIND:
        classifier.load(path)
    elif kind == noisy_classifier.KIND:
        noisy_classifier.load(path)
    else:
        autoencoders.load(path)


def _identity_fits(artifact: StageRun) -> None:
    """Compare the settings by which a stage knows its directory again with those in the manifest."""
    found = files.read_json(artifact.path / IDENTITY, artifact.remedy)
    inputs = {role: entry["fingerprint"] for role, entry in artifact.manifest["inputs"].items()}
    recorded = found.get("inputs")
    theirs = {
        role: entry.get("fingerprint") if isinstance(entry, dict) else None
        for role, entry in (recorded if isinstance(recorded, dict) else {}).items()
    }
    config = found.get("config")  # It was written when the directory was begun, perhaps by an earlier version.
    settings = as_recorded_now(artifact.kind, config) if isinstance(config, dict) else None
    known = as_recorded_now(artifact.kind, artifact.config)
    if (found.get("kind"), settings, theirs) != (artifact.kind, known, inputs):
        message = f"{artifact.path / IDENTITY} is damaged: it says other settings or inputs than {MANIFEST}"
        raise DataError(message, artifact.remedy)


def _recipe_fits(artifact: StageRun, written_by: str) -> None:
    """Compare the recipe, which remedies name, with the settings in the manifest."""
    path, command = artifact.path / RECIPE, MADE_BY.get(artifact.kind)
    imported = import_of(artifact.path)
    if imported is not None and imported != imported_as(artifact.path):
        raise DataError(f"{path} is damaged: it says another import than {MANIFEST}", artifact.remedy)
    if command is None or imported is not None:
        return
    remedy = f"write it again: {written_by}"
    try:
        default, settings = STAGES[command](), read_settings(path).tree.get(command)
        if isinstance(settings, dict):  # In a recipe nothing may stand under the name of a section.
            empty = {key for key in settings if settings[key] is None and isinstance(getattr(default, key, 0), Section)}
            settings = {key: value for key, value in settings.items() if key not in empty}
        seen: Mapping[str, Any] = identity(STAGES[command].model_validate(settings))
    except (UserError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a recipe: {str(error).splitlines()[0]}", remedy) from None
    if seen != as_recorded_now(artifact.kind, artifact.config):
        raise DataError(f"{path} is damaged: it says other settings than {MANIFEST}", remedy)


def _producer_fits(artifact: StageRun, role: str) -> None:
    """Check that the stage which an artifact was made of still holds what it held."""
    if artifact.kind == PRODUCERS[role]:  # An autoencoder made of a folder from elsewhere.
        return
    producer = recognise(input_path(artifact, role))
    if producer is not None and producer.kind == PRODUCERS[role]:
        check_producer(artifact, role, producer.open())
    elif role in _NEEDED:
        gone = input_path(artifact, role)
        raise DataError(f"{artifact.path} was made with the {role} in {gone}, which is gone", f"bring {gone} back")


def _latents_fit(artifact: StageRun) -> None:
    """Check that the shards hold the samples, labels and fields that index and manifest say."""
    metadata = artifact.metadata
    fields = fields_of(metadata)
    labels = shards.check_index(artifact.path, metadata["shards"], fields)
    for split, count in metadata["samples"].items():
        if len(labels[split]) != count:
            message = f"{artifact.path} holds {len(labels[split]):,} {split} samples, its manifest says {count:,}"
            raise DataError(message, artifact.remedy)
        read_tables(artifact.path, split, metadata["shards"][split], tuple(metadata["latent_shape"]), fields)
    known = labels["train"][labels["train"] >= 0]
    counts = np.bincount(known, minlength=len(metadata["class_names"])).tolist()
    if counts != metadata["class_counts"]:
        raise DataError(f"{artifact.path} holds other labels than its manifest says", artifact.remedy)


def _read_whole_shard(path: Path) -> None:
    for _ in shards.read_shard(path):
        pass


def _read_whole_picture(path: Path) -> None:
    try:
        decode(path.read_bytes(), str(path))
    except DataError as error:
        raise DataError(error.message, f"remove {path}: the same command draws it again") from None
