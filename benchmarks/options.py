"""What the command line gives every benchmark."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """peers: folder with checkouts of other projects. run: a finished run of the mnist recipe. lenet: weights of a
    classifier trained elsewhere. rounds: of every comparison. steps: of compared loss curves. sizes: of networks."""

    peers: Path
    run: str
    lenet: Path
    rounds: int = 7
    steps: int = 300
    sizes: tuple[str, ...] = ("tiny", "S/2")
