"""What each choice does to the pictures of a recipe: `python -m benchmarks.quality LIST.yaml`; see `listed.Bench`."""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from ldm.core import files

from .. import machine
from . import page
from .listed import Bench, read
from .work import Work


def main() -> None:
    """Do the work of a list, or of a part of it, and write what is known of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument("list", type=Path, metavar="LIST.yaml", help="as in benchmarks/quality")
    parser.add_argument("--folder", type=Path, help="of the runs; by default runs/quality-LIST")
    parser.add_argument("--only", nargs="+", metavar="CHOICE", help="these choices alone; the baseline comes first")
    parser.add_argument("--part", default="1/1", help="which of how many processes this is: 1/2")
    given = parser.parse_args()
    bench = read(given.list)
    if unknown := set(given.only or ()) - set(bench.choices):
        parser.error(f"no choice {', '.join(sorted(unknown))}; there are {', '.join(bench.choices)}")
    part, parts = map(int, given.part.split("/"))
    if not 1 <= part <= parts:
        parser.error(f"--part {given.part}: give 1/2 and 2/2, for instance")

    # One after the other, all of one core; the page after each, so that an early end loses nothing.
    torch.set_num_threads(1)
    folder = given.folder or Path("runs") / f"quality-{bench.name}"
    work, described = Work(bench, folder), machine.describe()
    others = [(name, seed) for name in given.only or bench.choices for seed in bench.seeds_of(name)]
    wanted = list(dict.fromkeys([(bench.baseline, bench.seeds[0]), *others]))
    for name, seed in wanted[part - 1 :: parts]:
        row = work.result(name, seed)
        print(json.dumps({"choice": name, "seed": seed, "images": row["images"], **row["numbers"]}), flush=True)
        write(work, described)


def write(work: Work, described: dict[str, Any]) -> None:
    """Write all results of a list that there are, of this process and of others, with picture and page.

    Nothing until the baseline is done, with which they are compared.
    """
    bench = work.bench
    if not work.place(bench.baseline, bench.seeds[0]).is_file():
        return
    known = [(name, seed) for name in bench.choices for seed in bench.seeds_of(name)]
    rows = [work.result(name, seed) for name, seed in known if work.place(name, seed).is_file()]
    document = {"bench": _described(bench), "baseline": bench.baseline, "machine": described, "rows": rows}
    page.RESULTS.mkdir(exist_ok=True)
    files.write_json(page.RESULTS / f"quality-{bench.name}.json", document)
    page.draw(rows, work.folder, page.DOCS / f"quality-{bench.name}.png")
    page.write()


def _described(bench: Bench) -> dict[str, Any]:
    return bench.model_dump(mode="json", exclude={"choices"})


if __name__ == "__main__":
    main()
