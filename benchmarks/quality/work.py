"""The work for each choice: latents, a denoiser trained for a budget of processor time, samples, and their numbers.

All of it are commands of ldm, in this process and on one core. What is finished is not done again, and what was
stopped goes on, as commands do; the images that a budget buys are counted once and kept.
"""

import fcntl
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ldm.core import files
from ldm.core.errors import Stopped
from ldm.core.metrics.evaluate import Features
from ldm.core.progress import Outcome, Silent
from ldm.stages.eval import samples
from ldm.stages.table import STAGES

from .. import commands
from .listed import Bench, Changes

MEASURED = ("frechet_distance", "kernel_distance", "class_accuracy", "precision", "recall")
LONGEST_WINDOW = 30.0  # processor seconds in which a rate is measured
ROUNDS = 2  # windows of a choice, each between two of the baseline


class Window(Silent):
    """Watches a training for some processor time, and stops it."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.training = seconds, False
        self.seen: list[tuple[float, int]] = []

    def start(self, title: str, total: int, unit: str, done: int = 0) -> None:
        self.training = title == "training"

    def update(self, done: int, **numbers: float) -> None:
        if not self.training:
            return
        self.seen.append((time.process_time(), done))
        # The first third is left out: kernels are chosen there, memory is taken, and blocks are compiled.
        if self.seen[-1][0] - self.seen[0][0] > self.seconds and len(self.seen) > 9:
            raise Stopped("measured")

    @property
    def rate(self) -> float:
        """Images a second of processor time."""
        (before, some), (after, all_) = self.seen[len(self.seen) // 3], self.seen[-1]
        return (all_ - some) / (after - before)


@dataclass
class Work:
    """The work of one list. folder: of its runs and of what is known so far."""

    bench: Bench
    folder: Path
    seen: dict[str, Features] = field(default_factory=dict)  # features of references

    def __post_init__(self) -> None:
        for name in ("plans", "results"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)

    def place(self, name: str, seed: int) -> Path:
        """Return where the result of a choice is kept."""
        return self.folder / "results" / f"{self.bench.result_key(self.bench.choices[name], seed)}.json"

    def result(self, name: str, seed: int) -> dict[str, Any]:
        """Return what a choice gave, done now where it was not yet."""
        bench, changes, path = self.bench, self.bench.choices[name], self.place(name, seed)
        with self.held(path.stem):
            if not path.is_file():
                self.measure(bench, changes, path, seed, name)
        return {**json.loads(path.read_text()), "choice": name}

    def measure(self, bench: Bench, changes: Changes, path: Path, seed: int, name: str) -> None:
        """Train a choice for the budget, draw, evaluate, and keep what came out."""
        base = self.latents({}, classifier=bench.features == "classifier" and bench.weights is None)
        latents = self.latents(bench.of_latents(changes))
        run, plan = self.denoiser(bench.of_denoiser(changes), latents, base, seed)
        numbers, floor = {}, {}
        for scale in bench.guidance:
            label = f"{bench.result_key({'sample': changes.get('sample', {})}, 0)}-cfg-{scale:g}"
            place = {"name": run, "label": label, "cfg": scale, "num": bench.num, "seed": 0, "metadata": False}
            self.run("sample", changes, run, **place)
            weights = bench.weights or base / "classifier" / "final"
            evaluation = {"features": bench.features, "weights": weights, "limit": bench.limit, "samples": label}
            made = self.run("eval", {}, run, name=run, seed=0, **evaluation)
            found = json.loads((made.directory / "metrics.json").read_text())
            numbers[f"{scale:g}"] = _chosen(found["numbers"])
            floor = _chosen(found["real_against_real"])
        result = {
            "choice": name,
            "changes": {command: dict(own) for command, own in changes.items()},
            "seed": seed,
            **plan,
            "processor_seconds": commands.spent(self.folder, run),
            "numbers": numbers,
            "floor": floor,
            "samples": [f"{run}/samples/{label}", label],
        }
        files.write_json(path, result)

    def latents(self, changes: Changes, classifier: bool = False) -> Path:
        """Make the run with an autoencoder and its latents, and the classifier that reads samples. Returns its folder.

        Without changes it may be a finished run of the recipe.
        """
        bench, seed = self.bench, 0
        if bench.run is not None and not changes:
            return Path(bench.run)
        run = f"latents-{bench.training_key(changes, seed)}"
        with self.held(run):
            more: dict[str, Any] = {"name": run, "seed": seed}
            if bench.autoencoder_seconds is not None:
                more["phases"] = ["part=all"]  # the budget is that of one training
                plan = self.plan(run, bench.autoencoder, changes, bench.autoencoder_seconds, more, more)
                more = {**more, "train__images": plan["images"]}
            self.run(bench.autoencoder, changes, run, **more)
            self.run("encode", changes, run, name=run, seed=seed)
            if classifier:
                self.run("train-classifier", {}, run, name=run, seed=seed)
        return self.folder / run

    def denoiser(self, changes: Changes, latents: Path, base: Path, seed: int) -> tuple[str, dict[str, Any]]:
        """Train a denoiser for the budget. Returns its run, and how many images that were.

        base: folder of the run with the recipe's own latents.
        """
        bench = self.bench
        run = f"denoiser-{bench.training_key(changes, seed)}"
        with self.held(run):
            own = {"seed": seed, "preview__every": 0, "metrics__every": 0}
            at, of_base = {"latents": latents / "latents"}, {"latents": base / "latents"}
            plan = self.plan(run, bench.denoiser, changes, bench.seconds, {**own, **at}, {**own, **of_base})
            more = {**own, **at, "name": run, "train__images": plan["images"]}
            self.run(bench.denoiser, changes, run, **more)
        return run, plan

    def plan(
        self,
        run: str,
        command: str,
        changes: Changes,
        budget: float,
        more: dict[str, Any],
        of_base: dict[str, Any],
    ) -> dict[str, Any]:
        """Return how many images the budget buys, from where that is kept.

        Those of the baseline are counted once. Of another choice they are as many more or fewer as it is faster, by
        turns with the baseline, since the speed of a machine drifts. of_base: further settings of the baseline.
        """
        path = self.folder / "plans" / f"{run}.json"
        if path.is_file():
            return dict(json.loads(path.read_text()))
        window = min(LONGEST_WINDOW, max(2.0, budget / 20))
        base: Changes = {}
        base_path = self.folder / "plans" / f"{command}-baseline.json"
        with self.held(base_path.stem):
            if not base_path.is_file():
                rates = [self.rate(command, base, window, of_base) for _ in range(2 * ROUNDS - 1)]
                files.write_json(base_path, {"rate": statistics.median(rates)})
        rate, ratio = json.loads(base_path.read_text())["rate"], 1.0
        if changes or more != of_base:
            before = self.rate(command, base, window, of_base)
            ratios = []
            for _ in range(ROUNDS):
                own = self.rate(command, changes, window, more)
                after = self.rate(command, base, window, of_base)
                ratios.append(2 * own / (before + after))
                before = after
            ratio = statistics.median(ratios)
        batch = self.bench.settings(command, changes, **more).train.batch_size
        images = max(round(rate * ratio * budget / batch), 1) * batch
        plan = {"images": images, "images_per_second": round(rate * ratio, 2), "speed": round(ratio, 3)}
        files.write_json(path, plan)
        return plan

    def rate(self, command: str, changes: Changes, window: float, more: dict[str, Any]) -> float:
        """Return images per second of processor time of a training, of which some is done and thrown away."""
        run = self.folder / f"rate-{os.getpid()}"  # Others measure at the same time.
        shutil.rmtree(run, ignore_errors=True)
        given = {**more, "name": run.name, "runs_dir": self.folder, "train__validate_every": 10**9}
        config = self.bench.settings(command, changes, **given, train__checkpoint_every=10**9)
        watched = Window(window)
        try:
            STAGES[command].load().run(config, watched)
        except Stopped as stop:
            if stop.message != "measured":
                raise
        shutil.rmtree(run, ignore_errors=True)
        return watched.rate

    def run(self, command: str, changes: Changes, run: str, **more: Any) -> Outcome:
        """Run a command, and add its processor time to that of the run."""
        config = self.bench.settings(command, changes, runs_dir=self.folder, **more)
        if command == "eval":  # which compares several times with the same images
            return commands.timed(self.folder, run, command, lambda: samples.run(config, Silent(), self.seen))
        return commands.timed(self.folder, run, command, lambda: STAGES[command].load().run(config, Silent()))

    @contextmanager
    def held(self, run: str) -> Iterator[None]:
        """Let one process at a time work on a run; others of the same list wait."""
        with (self.folder / f".{run}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _chosen(numbers: dict[str, float]) -> dict[str, float]:
    """Return the numbers that are compared, without their features' name; accuracy is that among the classes."""
    plain = {name.partition("[")[0]: value for name, value in numbers.items()}
    for among in [name for name in plain if name.startswith("class_accuracy_among_")]:
        plain["class_accuracy"] = plain[among]
    return {name: round(plain[name], 5) for name in MEASURED if name in plain}
