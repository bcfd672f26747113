"""How long a user waits for help."""

import subprocess
import sys
from typing import Any

from .interleaved import compare
from .options import Options

COMMANDS = {"ldm --help": ["--help"], "ldm sample --help": ["sample", "--help"], "ldm --version": ["--version"]}


def measure(options: Options) -> dict[str, Any]:
    """Time whole processes; the first is only where ratios start from."""

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, "-m", "ldm", *arguments], check=True, stdout=subprocess.DEVNULL)

    variants = {name: lambda arguments=arguments: run(arguments) for name, arguments in COMMANDS.items()}
    return {"comparisons": {"A process, from start to end": compare(variants, options.rounds)}}
