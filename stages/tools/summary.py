"""A run as its report shows it: stages, settings, curves and numbers, gathered from its folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...core.errors import DataError
from ...core.metrics.document import read_evaluation
from ...core.runs.inputs import has_begun
from ...core.runs.roles import EVALUATION, SAMPLES, Role
from ...core.runs.run import MANIFEST, StageRun, kind_of, open_run
from ..table import STAGES
from .directories import changed_settings, recorded_settings

Evaluated = tuple[StageRun, dict[str, Any]]
"""A complete evaluation and its document of numbers and conditions."""


def stages(root: Path) -> dict[str, StageRun]:
    """Return the stages of a run that write one folder each, by role, those it lacks as well.

    Of several folders of one role the first that is complete.
    """
    return {role.name: _of_role(role, root) for role in _roles()}


def also_there(root: Path) -> list[Path]:
    """List the folders of a run that `stages` leaves out, since it has another of the same role."""
    chosen = {stage.path for stage in stages(root).values()}
    folders = [root / kind for role in _roles() for kind in role.makers]
    return [folder for folder in folders if folder not in chosen and has_begun(folder)]


def samples(root: Path) -> list[StageRun]:
    """Return the complete sets of samples of a run, by how they were drawn, then by name."""
    return sorted(_labelled(SAMPLES, root), key=lambda one: _order(one.metadata["sampling"]))


def evaluations(root: Path) -> list[Evaluated]:
    """Return the complete evaluations of a run, in the order of `samples`, each with its document of numbers."""
    found = [(one, read_evaluation(one.path)) for one in _labelled(EVALUATION, root)]
    return sorted(found, key=lambda each: _order(each[1]["conditions"].get("sampling", {})))


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
    return {key: _text(value) for key, value in changed_settings(run.kind, recorded).items()}


def evaluated_alike(evaluated: Sequence[Evaluated]) -> list[list[Evaluated]]:
    """Put evaluations together that differ in nothing but how their samples were drawn; all others stand alone."""
    alike: dict[str, list[Evaluated]] = {}
    for folder, document in evaluated:
        others = {name: value for name, value in document["conditions"].items() if name != "sampling"}
        alone = folder.path.name if "sampling" not in document["conditions"] else ""
        alike.setdefault(alone + json.dumps(others, sort_keys=True), []).append((folder, document))
    return list(alike.values())


def _order(sampling: dict[str, Any]) -> tuple[str, str, float, float]:
    """Sort samples by which state of the denoiser drew them, sampler, steps and guidance."""
    state, sampler = str(sampling.get("checkpoint", "")), str(sampling.get("sampler", ""))
    return state, sampler, float(sampling.get("steps") or 0), float(sampling.get("cfg") or 0)


def conditions_in_words(document: dict[str, Any], drawn: str | None = None) -> str:
    """Write what numbers depend on in one line. drawn: how the samples were, where that is not all of what they say."""
    seen = document["conditions"]
    parts = [how(seen["sampling"]) if drawn is None else drawn] if "sampling" in seen else []
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


def how(sampling: dict[str, Any]) -> str:
    """Write how images were drawn: sampler, steps, guidance, and what is unusual."""
    parts = [str(sampling["sampler"])]
    parts += [f"{sampling['steps']} steps"] if "steps" in sampling else []
    parts += [f"cfg {sampling['cfg']:g}"] if "cfg" in sampling else []
    usual = {"eta": 0.0, "cfg_rescale": 0.0, "spacing": "trailing", "autoguide_scale": 1.0, "classifier_scale": 0.0}
    usual |= {"cfg_interval": None, "cfg_channels": None, "shift": None, "checkpoint": "final"}
    parts += [f"{plain(key)} {sampling[key]}" for key, value in usual.items() if sampling.get(key, value) != value]
    return ", ".join(parts)


def plain(name: str) -> str:
    """Return the name of a number or setting in words, that of an extractor left out."""
    words = name.partition("[")[0].replace("val_", "validation ").replace("_", " ")
    return words.upper() if words in ("fid", "kid", "psnr", "ssim") else words.replace("frechet", "Fréchet")


def _roles() -> list[Role]:
    """List the roles of which a run has one directory, in the order of the stages."""
    written = (kind for command in STAGES.values() for kind in command.writes)
    return list({kind.role.name: kind.role for kind in written if not kind.labelled}.values())


def _of_role(role: Role, root: Path) -> StageRun:
    found = [_read(role, root / kind) for kind in role.makers]
    ranks = ("complete", "unfinished", "missing")
    return min(found, key=lambda run: ranks.index(run.state))


def _labelled(role: Role, root: Path) -> Iterator[StageRun]:
    for kind in role.makers:
        for path in sorted((root / kind).glob(f"*/{MANIFEST}")):
            one = _read(role, path.parent)
            if one.complete:
                yield one


def _read(role: Role, folder: Path) -> StageRun:
    """Read one folder, of its metadata what the schema checks; one that is damaged counts as unfinished."""
    kinds = (kind_of(folder), folder.name, *role.makers)
    kind = next(name for name in kinds if name is not None and name in role.makers)
    command = f"ldm {role.command(kind)}"
    try:
        run = open_run(folder, role, command)
    except DataError:
        return StageRun(folder, kind, command)
    return replace(run, manifest={**run.manifest, "facts": role.known(run.metadata)})


def _text(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
