"""How long a user waits: for help, and for the first image of a network that is trained."""

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .encode import write_jpegs
from .interleaved import compare
from .options import Options

COMMANDS = {"ldm --help": ["--help"], "ldm sample --help": ["sample", "--help"], "ldm --version": ["--version"]}
FIRST_IMAGE = "ldm sample, to the first image (20 steps, cfg 3)"


def measure(options: Options) -> dict[str, Any]:
    """Time whole processes; the first is only where ratios start from.

    The image is drawn by networks of the mnist recipe's sizes, which are trained for a moment: that changes no time.
    """
    with tempfile.TemporaryDirectory() as folder:
        run = ["--runs-dir", str(Path(folder) / "runs"), "--name", "brief", "--quiet"]
        _train(write_jpegs(Path(folder) / "images", 128, side=32), run)
        drawing = ["sample", *run, "--class", "0", "--count", "1", "--steps", "20", "--cfg", "3", "--label", "one"]
        commands = {**COMMANDS, FIRST_IMAGE: [*drawing, "--replace"]}
        variants = {name: lambda arguments=arguments: _ldm(*arguments) for name, arguments in commands.items()}
        return {"comparisons": {"A process, from start to end": compare(variants, options.rounds)}}


def _train(images: Path, run: list[str]) -> None:
    """Make a finished run, short of all but its end."""
    brief = ["--images", "64", "-c", "mnist", *run]
    _ldm("train-vqvae", *brief, "--data", str(images))
    _ldm("encode", *run)
    _ldm("train-dit", *brief)


def _ldm(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ldm", *arguments], check=True, stdout=subprocess.DEVNULL)
