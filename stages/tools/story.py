"""What became of a run: its stages, their settings, curves, pictures and numbers, gathered from its folder."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...core.denoisers.settings import NOISY
from ...core.errors import DataError
from ...core.files import read_json
from ...core.metrics.document import read_evaluation
from ...core.runs.roles import role_of
from ...core.runs.run import IDENTITY, MANIFEST, StageRun, open_run
from ...core.settings.fields import identity
from ...core.settings.recipe_file import leaves
from ...core.training import record
from ..configs import MADE_BY, OUTPUTS, STAGES
from .directories import as_recorded_now

ALONE = ("vqvae", "latents", "dit", "classifier", NOISY)  # kinds of which a run has one


@dataclass(frozen=True)
class Folder:
    """One folder that a stage wrote: its state, settings that differ from the defaults, and what it says of itself.

    kind: of the artifact. state: complete, unfinished or missing. lines: those of metrics.jsonl, where it trains.
    """

    kind: str
    command: str
    path: Path
    state: str
    changed: dict[str, str]
    artifact: StageRun | None
    lines: list[dict[str, Any]]

    @property
    def metadata(self) -> dict[str, Any]:
        """What the manifest says of the stage, as far as that was looked at."""
        return {} if self.artifact is None else role_of(self.kind).known(self.artifact.metadata)

    @property
    def provenance(self) -> dict[str, Any]:
        return {} if self.artifact is None else dict(self.artifact.manifest["provenance"])

    @property
    def inputs(self) -> dict[str, dict[str, Any]]:
        return {} if self.artifact is None else self.artifact.manifest["inputs"]

    @property
    def images_per_second(self) -> float | None:
        """The middling speed of training; of other stages that of their last session, where they go through images."""
        rates = sorted(rate for _, rate in self.curve("images_per_second"))
        return rates[len(rates) // 2] if rates else self.provenance.get("images_per_second")

    @property
    def seconds(self) -> float | None:
        """How long the work took: training by its speed, interruptions aside; other stages in their last session."""
        at, total = 0.0, 0.0
        for images, rate in self.curve("images_per_second"):
            total, at = total + (images - at) / max(rate, 1e-9), images
        return total or self.provenance.get("seconds")

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Return (images seen, value) of a number of metrics.jsonl."""
        return [(line["images"], line[name]) for line in self.lines if isinstance(line.get(name), (int, float))]


Judged = tuple[Folder, dict[str, Any]]
"""A finished judgement and its document of numbers and conditions."""


def folders(root: Path) -> dict[str, Folder]:
    """Return the stages of a run that write one folder each, by kind, those it lacks as well."""
    return {kind: _folder(kind, MADE_BY[kind], root / kind) for kind in ALONE}


def samples(root: Path) -> list[Folder]:
    """Return the finished sets of samples of a run, by how they were drawn, then by name."""
    found = _several("samples", "sample", root)
    return sorted(found, key=lambda one: _order(one.metadata["sampling"]))


def judgements(root: Path) -> list[Judged]:
    """Return the finished judgements of a run, in the order of `samples`, each with its document of numbers."""
    found = [(one, read_evaluation(one.path)) for one in _several("eval", "eval", root)]
    return sorted(found, key=lambda each: _order(each[1]["conditions"].get("sampling", {})))


def judged_alike(judged: Sequence[Judged]) -> list[list[Judged]]:
    """Put judgements together that differ in nothing but how their samples were drawn; all others stand alone."""
    alike: dict[str, list[Judged]] = {}
    for folder, document in judged:
        others = {name: value for name, value in document["conditions"].items() if name != "sampling"}
        alone = folder.path.name if "sampling" not in document["conditions"] else ""
        alike.setdefault(alone + json.dumps(others, sort_keys=True), []).append((folder, document))
    return list(alike.values())


def _order(sampling: dict[str, Any]) -> tuple[str, str, float, float]:
    """Sort samples by which state of the denoiser drew them, sampler, steps and guidance."""
    state, sampler = str(sampling.get("checkpoint", "")), str(sampling.get("sampler", ""))
    return state, sampler, float(sampling.get("steps") or 0), float(sampling.get("cfg") or 0)


def told_conditions(document: dict[str, Any], drawn: str | None = None) -> str:
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


def _several(kind: str, command: str, root: Path) -> Iterator[Folder]:
    for path in sorted((root / OUTPUTS[command]).glob(f"*/{MANIFEST}")):
        one = _folder(kind, command, path.parent)
        if one.state == "complete":
            yield one


def _folder(kind: str, command: str, folder: Path) -> Folder:
    """Read one folder; one that is damaged counts as unfinished."""
    if not (folder / IDENTITY).is_file() and not (folder / MANIFEST).is_file():
        return Folder(kind, command, folder, "missing", {}, None, [])
    artifact, config = None, {}
    try:
        artifact = open_run(folder, role_of(kind), f"ldm {command}")
        config = artifact.config
    except DataError:
        config = _recorded(folder / IDENTITY)
    state = "unfinished" if artifact is None else "complete"
    lines = record.read(folder / record.METRICS)
    return Folder(kind, command, folder, state, _changed(kind, command, config), artifact, lines)


def _recorded(path: Path) -> dict[str, Any]:
    """Return the settings in a stage's identity; none where that is missing or damaged."""
    try:
        config = read_json(path).get("config")
    except DataError:
        return {}
    return config if isinstance(config, dict) else {}


def _changed(kind: str, command: str, config: dict[str, Any]) -> dict[str, str]:
    """Return the settings, dotted, whose value is not the default."""
    default = dict(leaves(identity(STAGES[command]())))
    return {key: _text(value) for key, value in leaves(as_recorded_now(kind, config)) if value != default.get(key)}


def _text(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
