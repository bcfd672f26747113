"""The digits of a finished run, read by a classifier trained elsewhere."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from .options import Options


def measure(options: Options) -> dict[str, Any]:
    """Draw 1,000 digits at cfg 3 with 50 DDIM steps and let an independent classifier read them."""
    if not options.lenet.is_file():
        return {"skipped": f"no classifier at {options.lenet}"}
    if not (Path("runs") / options.run / "dit" / "final").is_dir():
        return {"skipped": f"no finished run in runs/{options.run}: make pipelines"}
    drawn = ["--class", "all", "--num", "100", "--cfg", "3", "--steps", "50", "--label", "thousand", "--replace"]
    started = time.perf_counter()
    _ldm("sample", "--name", options.run, *drawn)
    seconds = time.perf_counter() - started
    evaluation = ["--features", "lenet", "--weights", str(options.lenet), "--replace"]
    _ldm("eval", "--name", options.run, "--samples", "thousand", *evaluation)
    metrics = json.loads((Path("runs") / options.run / "eval" / "thousand" / "metrics.json").read_text())
    facts = {
        "class_accuracy": metrics["numbers"]["class_accuracy[lenet]"],
        "seconds_to_sample": round(seconds, 1),
        **metrics["conditions"],
    }
    return {"facts": facts}


def _ldm(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "ldm", *arguments], check=True)
