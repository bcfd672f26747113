"""States of its training that a generator's folder keeps beside its last one, each a folder of the same kind."""

from dataclasses import dataclass
from pathlib import Path

from .commands import MANIFEST

BEST, EARLY, LATEST = "best", "early", "latest"


@dataclass(frozen=True)
class State:
    """One of them.

    made_of: a pattern in the generator's folder; the state can be drawn from where a file matches. missing: what is
    said where none does, after "FOLDER …". remedy: what to do then; empty where that is to train. mend: what removing
    a damaged one means.
    """

    made_of: str
    missing: str
    remedy: str
    mend: str


_KEPT = "the training that it is of is whole without"  # No checkpoint holds it any more.
STATES = {
    LATEST: State(
        "checkpoints/*/ema.safetensors",
        "has no checkpoint",
        "",
        "it is made again of the newest checkpoint when that is drawn from",
    ),
    BEST: State(
        f"{BEST}/{MANIFEST}",
        "keeps no best state: its samples were not measured in training",
        "take its last state; or remove the folder, and train again with `metrics.every=100k`",
        _KEPT,
    ),
    EARLY: State(
        f"{EARLY}/{MANIFEST}",
        "keeps no early state: its training is shorter than `train.early`, or older than that setting",
        "name a weaker denoiser, `autoguide=PATH`; or remove the folder, and train again with less `train.early`",
        _KEPT,
    ),
}


def drawable(folder: Path) -> list[str]:
    """Return the names of the states that a generator's folder has."""
    return [name for name, state in STATES.items() if any(folder.glob(state.made_of))]


def mend(path: Path) -> str:
    """Return the remedy for a damaged state, by its folder."""
    return f"remove {path}: {STATES[path.name].mend}"
