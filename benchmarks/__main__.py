"""`make bench`: measure a finished run and the command line on this machine, and keep the figures as JSON."""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
LENET = "lenet_epoch=12_test_acc=0.991.pth"


def ldm(*arguments: str) -> None:
    """Run the command line as a user does; stop where it fails."""
    subprocess.run([sys.executable, "-m", "ldm", *arguments], check=True)


def class_accuracy(run: str, lenet: Path) -> dict[str, Any]:
    """Draw 1,000 digits at cfg 3 with 50 DDIM steps and let an independent classifier read them."""
    if not lenet.is_file():
        return {"skipped": f"no classifier at {lenet}"}
    started = time.perf_counter()
    ldm(
        "sample",
        "--name",
        run,
        "--class",
        "all",
        "--num",
        "100",
        "--cfg",
        "3",
        "--steps",
        "50",
        "--label",
        "thousand",
        "--replace",
    )
    seconds = time.perf_counter() - started
    ldm("eval", "--name", run, "--samples", "thousand", "--features", "lenet", "--weights", str(lenet), "--replace")
    metrics = json.loads((Path("runs") / run / "eval" / "thousand" / "metrics.json").read_text())
    return {
        "class_accuracy": metrics["numbers"]["class_accuracy[lenet]"],
        "conditions": metrics["conditions"],
        "seconds_to_sample": round(seconds, 1),
    }


def start_up(rounds: int = 7) -> dict[str, Any]:
    """Time `ldm --help` and `ldm sample --help`, interleaved: median seconds and the fastest."""
    commands = {"ldm --help": ["--help"], "ldm sample --help": ["sample", "--help"]}
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, arguments in commands.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-m", "ldm", *arguments], check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - started)
    return {name: {"median": statistics.median(s), "fastest": min(s)} for name, s in seconds.items()}


def cpu_name() -> str:
    """Name the processor as the system does."""
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def main() -> None:
    """Run every benchmark and write `results/NAME.json`, each with the machine it ran on."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--run", default="default", help="finished run of the mnist recipe")
    parser.add_argument("--lenet", type=Path, default=Path("../shared/weights/mnist-lenet") / LENET)
    given = parser.parse_args()
    machine = {"cpu": cpu_name(), "threads": torch.get_num_threads()}
    machine |= {"torch": torch.__version__, "python": platform.python_version(), "system": platform.platform()}
    RESULTS.mkdir(exist_ok=True)
    for name, result in (("start_up", start_up()), ("class_accuracy", class_accuracy(given.run, given.lenet))):
        document = {"benchmark": name, "machine": machine, **result}
        (RESULTS / f"{name}.json").write_text(json.dumps(document, indent=2) + "\n")
        print(json.dumps(document, indent=2))


if __name__ == "__main__":
    main()
