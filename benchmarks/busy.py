"""What a training of a small network keeps of its pace beside other work, and side by side with itself."""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ldm.core.system.threads import SPINS

from .encode import write_jpegs
from .interleaved import summary
from .options import Options

OPENMP = {SPINS: "300000"}  # OpenMP's own number; where it is set, `ldm` does nothing about it
IMAGES = 5000  # of each training: a few seconds, and ten times as many where threads spin in vain
TIMED = 1000  # images, of which the seconds are given
VARIANTS: dict[str, tuple[dict[str, str], bool, int]] = {  # environment, beside a busy process, trainings at once
    "alone, as OpenMP waits": (OPENMP, False, 1),
    "alone": ({}, False, 1),
    "beside a busy process, as OpenMP waits": (OPENMP, True, 1),
    "beside a busy process": ({}, True, 1),
    "each of two, as OpenMP waits": (OPENMP, False, 2),
    "each of two": ({}, False, 2),
}


def measure(options: Options) -> dict[str, Any]:
    """Train the mnist recipe's DiT by turns, each time in a new process, and take its images a second."""
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    with tempfile.TemporaryDirectory() as folder:
        runs = Path(folder) / "runs"
        brief = ["--runs-dir", str(runs), "--name", "brief", "--quiet"]
        images = write_jpegs(Path(folder) / "images", 512, side=32)
        _finish(_ldm(["train-vqvae", *brief, "-c", "mnist", "--images", "64", "--data", str(images)], {}))
        _finish(_ldm(["encode", *brief], {}))
        for number in range(options.rounds):
            names = list(VARIANTS)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                environment, beside, count = VARIANTS[name]
                with _busy() if beside else nullcontext():
                    seconds[name].append(TIMED / _images_per_second(runs, count, environment))
    baseline = next(iter(VARIANTS))
    found = {name: summary(own, seconds[baseline]) for name, own in seconds.items()}
    compared = {"baseline": baseline, "rounds": options.rounds, "variants": found}
    return {"comparisons": {f"{TIMED:,} images in a training, mnist recipe": compared}}


def _images_per_second(runs: Path, count: int, environment: dict[str, str]) -> float:
    """Return the median of a training's lines of metrics without the first; of several trainings, the slowest one's."""
    names = [f"training-{number}" for number in range(count)]
    settings = ["train.log_every=1000", "train.validate_every=0", "preview.every=0", "train.warmup=1000"]
    training = ["train-dit", "-c", "mnist", "--images", str(IMAGES), "--latents", str(runs / "brief" / "latents")]
    training += ["--runs-dir", str(runs), "--quiet", *settings]
    for name in names:
        shutil.rmtree(runs / name, ignore_errors=True)  # what is finished is not trained again
    for process in [_ldm([*training, "--name", name], environment) for name in names]:
        _finish(process)
    rates = []
    for name in names:
        lines = [json.loads(line) for line in (runs / name / "dit" / "metrics.jsonl").read_text().splitlines()]
        rates.append(statistics.median([line["images_per_second"] for line in lines if "loss" in line][1:]))
    return min(rates)


@contextmanager
def _busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _ldm(arguments: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    inherited = {name: value for name, value in os.environ.items() if name != SPINS}
    command = [sys.executable, "-m", "ldm", *arguments]
    return subprocess.Popen(command, env={**inherited, **environment}, stdout=subprocess.DEVNULL)


def _finish(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise subprocess.CalledProcessError(process.returncode, process.args)
