"""States of its training that a generator's folder keeps beside its last one, each a folder of the same kind.

Besides those with a name, `post-hoc/` has one for each length of the EMA that `ldm average` made: `std-0.1`.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .commands import MANIFEST
from .pieces import IDENTITY

BEST, EARLY, LATEST = "best", "early", "latest"
POST_HOC = "post-hoc"


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


def training_of(path: Path) -> Path | None:
    """Return the directory of the training that a folder is a state of; None for a folder that is none.

    Samples may be labelled `best` as well, in a folder that is no stage's directory.
    """
    if path.name not in STATES and path.parent.name != POST_HOC:
        return None
    folder = path.parent if path.name in STATES else path.parent.parent
    return folder if any((folder / name).is_file() for name in (MANIFEST, IDENTITY)) else None


def folders(training: Path) -> Iterator[Path]:
    """Yield the folders of states that a training's directory has, whole or not."""
    yield from (training / name for name in STATES if (training / name).is_dir())
    yield from sorted(path for path in (training / POST_HOC).glob("[!.]*") if path.is_dir())


def mend(path: Path) -> str:
    """Return the remedy for a damaged state, by its folder."""
    if path.parent.name == POST_HOC:
        setting, _, value = path.name.partition("-")
        again = shlex.join(["ldm", "average", "--denoiser", str(path.parent.parent), f"--{setting}", value])
        return f"make it again: {again}"
    return f"remove {path}: {STATES[path.name].mend}"
