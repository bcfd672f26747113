"""What became of a run: its stages, their settings, curves, pictures and numbers, gathered from its folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..core.artifacts import IDENTITY, MANIFEST, Artifact, open_artifact
from ..core.errors import DataError
from ..core.files import read_json
from ..core.training import record
from .configs import MADE_BY, NOISY, OUTPUTS, STAGES
from .directories import as_recorded_now
from .judging import read_judgement
from .settings import identity

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
    artifact: Artifact | None
    lines: list[dict[str, Any]]

    @property
    def facts(self) -> dict[str, Any]:
        return {} if self.artifact is None else self.artifact.facts

    @property
    def provenance(self) -> dict[str, Any]:
        return {} if self.artifact is None else dict(self.artifact.manifest["provenance"])

    @property
    def images_per_second(self) -> float | None:
        """The middling speed of training."""
        rates = sorted(line["images_per_second"] for line in self.lines if "images_per_second" in line)
        return rates[len(rates) // 2] if rates else None

    @property
    def seconds(self) -> float | None:
        """How long the work took: training by its speed, interruptions aside; other stages in their last session."""
        at, total = 0, 0.0
        for line in self.lines:
            if "images_per_second" in line:
                total, at = total + (line["images"] - at) / max(line["images_per_second"], 1e-9), line["images"]
        return total or self.provenance.get("seconds")

    def curve(self, name: str) -> list[tuple[float, float]]:
        """Return (images seen, value) of a number of metrics.jsonl."""
        return [(line["images"], line[name]) for line in self.lines if isinstance(line.get(name), (int, float))]


def folders(root: Path) -> dict[str, Folder]:
    """Return the stages of a run that write one folder each, by kind, those it lacks as well."""
    return {kind: _folder(kind, MADE_BY[kind], root / kind) for kind in ALONE}


def samples(root: Path) -> list[Folder]:
    """Return the finished sets of samples of a run, by name."""
    return list(_several("samples", "sample", root))


def judgements(root: Path) -> list[tuple[Folder, dict[str, Any]]]:
    """Return the finished judgements of a run, by name, each with its document of numbers and conditions."""
    return [(one, read_judgement(one.path)) for one in _several("eval", "eval", root)]


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
        artifact = open_artifact(folder, kind, f"ldm {command}")
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
    default = dict(_leaves(identity(STAGES[command]())))
    return {key: _text(value) for key, value in _leaves(as_recorded_now(kind, config)) if value != default.get(key)}


def _leaves(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    """Write a value as one would type it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "yes", False: "no"}[value]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
