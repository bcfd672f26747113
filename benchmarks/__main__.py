"""`make bench`: measure on this machine; figures go to benchmarks/results/*.json and the tables of docs/performance.md.

A benchmark is a module here whose `measure(options)` returns `conditions` and `facts` (names with values),
`comparisons` (titles with what `interleaved.compare` returns) and `curves` (titles with points of lines by name), or
`skipped`, the reason. Titles of what is measured at several sizes begin with the size and a colon. It asserts nothing
about time.
"""

import argparse
import importlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from . import machine, page
from .options import Options
from .sizes import SIZES

BENCHMARKS = (
    *("start_up", "training", "sampling", "unet", "mmdit", "attention_cost", "vqvae", "kl"),
    *("busy", "encode", "latents", "class_accuracy", "edits"),
)
RESULTS = Path(__file__).parent / "results"
LENET = "lenet_epoch=12_test_acc=0.991.pth"


def main() -> None:
    """Run the benchmarks asked for, all by default, and write what they gave."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument(
        "--peers", type=Path, default=Path("../peers"), help="folder with DiT, fast-DiT, SiT, LightningDiT"
    )
    parser.add_argument("--run", default="default", help="finished run of the mnist recipe")
    parser.add_argument("--lenet", type=Path, default=Path("../shared/weights/mnist-lenet") / LENET)
    parser.add_argument("--rounds", type=int, default=7, help="of every comparison, 5 or more")
    parser.add_argument("--steps", type=int, default=300, help="of compared loss curves")
    parser.add_argument(
        "--sizes", nargs="+", default=["tiny", "S/2"], choices=list(SIZES), help="of training, sampling"
    )
    given = parser.parse_args()
    if unknown := set(given.names) - set(BENCHMARKS):
        parser.error(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}")
    options = Options(given.peers, given.run, given.lenet, given.rounds, given.steps, tuple(given.sizes))
    RESULTS.mkdir(exist_ok=True)
    for name in given.names or BENCHMARKS:
        result = importlib.import_module(f".{name}", __package__).measure(options)
        document = {"benchmark": name, "machine": machine.describe(), **result}
        print("\n".join(page.lines(document)), flush=True)
        if "skipped" not in result:  # An older result says more than the news that there is none.
            keep(RESULTS / f"{name}.json", document, options.sizes)
    page.write(RESULTS)


def keep(path: Path, document: dict[str, Any], measured: Collection[str]) -> None:
    """Write a result in the place of an earlier one, of which only sizes that were not measured again stay.

    measured: the sizes of this run, with which titles begin. What was found on another device goes as a whole.
    """
    older = json.loads(path.read_text()) if path.exists() else {}
    others = tuple(f"{size}: " for size in SIZES if size not in measured)
    if older.get("machine", {}).get("device") == document["machine"]["device"]:
        for part in ("comparisons", "curves"):
            kept = {title: found for title, found in older.get(part, {}).items() if title.startswith(others)}
            if merged := kept | document.get(part, {}):
                document[part] = merged
    path.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
