"""The results as a page, *What each choice did*: docs/quality.md, with a picture of samples for each list."""

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ldm.core.images.decode import decode, write_png
from ldm.core.images.grid import grid, scale_for

from ..commands import typed

DOCS = Path(__file__).resolve().parents[2] / "docs"
RESULTS = Path(__file__).resolve().parents[1] / "results"
PAGE = "quality.md"
SHOWN = 10  # samples of each choice in the picture
HEAD = """# What each choice did

One change at a time to a recipe, each trained for the same processor time of one core from the same seeds, and measured
alike; choices that lost are here, too. Made by

```sh
python -m benchmarks.quality benchmarks/quality/digits.yaml
```

of the lists in [`benchmarks/quality`](../benchmarks/quality/listed.py): a YAML file of a recipe, a budget, and for each
choice the settings that it changes. What is finished is not done again. `--part 1/2` and `--part 2/2` share a list
between two processes, on one core each.

The budget buys images: *speed* is how many a choice trains on in the time of one of the baseline, measured by turns
with it. Fréchet and kernel distances (less is better), recall, and the share of samples that are read as their class
are in the features named, at the guidance scale where the Fréchet distance of that choice is least. A ± is the
deviation over seeds, where there are several: differences of that size between single trainings say nothing.
"""


def write(docs: Path = DOCS, results: Path = RESULTS) -> None:
    """Write the page of all results."""
    sections = [section(json.loads(path.read_text())) for path in sorted(results.glob("quality-*.json"))]
    (docs / PAGE).write_text("\n".join([HEAD, *sections]))


def section(document: Mapping[str, Any]) -> str:
    """Return what one list gave as Markdown: the choices by their Fréchet distance, and the picture."""
    bench, machine = document["bench"], document["machine"]
    by_choice: dict[str, list[dict[str, Any]]] = {}
    for row in document["rows"]:
        by_choice.setdefault(row["choice"], []).append(row)
    base = best(by_choice[document["baseline"]])
    lines = [
        f"## {bench['title']}",
        "",
        f"Recipe `{bench['recipe']}`, {bench['seconds']:g} s for each denoiser"
        + (f", {bench['autoencoder_seconds']:g} s for each autoencoder" if bench["autoencoder_seconds"] else "")
        + (f" but that of `{bench['run']}`, the recipe's own" if bench.get("run") else "")
        + (f", all with {', '.join(_changed(bench['always']))}" if bench.get("always") else "")
        + f"; {machine['device']}, {bench['precision']}{', compiled' if bench['compile'] else ''}, torch"
        f" {machine['torch']}. {bench['num']:,} samples of each class at each scale, features of {bench['features']},"
        f" seeds {', '.join(map(str, bench['seeds']))}"
        + (f", of the first choice {', '.join(map(str, more))}." if (more := bench.get("baseline_seeds")) else "."),
        "",
        "| choice | changed | images | speed | cfg | Fréchet | to the first | kernel | read right | recall |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, rows in sorted(by_choice.items(), key=lambda item: best(item[1])["frechet_distance"]):
        found = best(rows)
        spread = f" ± {found['spread']:.2g}" if len(rows) > 1 else ""
        changed = "<br>".join(_changed(rows[0]["changes"]))
        lines.append(
            f"| {name} | {changed or '–'} | {rows[0]['images']:,} | {rows[0]['speed']:.2f} | {found['cfg']}"
            f" | {found['frechet_distance']:.3g}{spread} | {found['frechet_distance'] / base['frechet_distance']:.2f}"
            f" | {found['kernel_distance']:.3g} | {found['class_accuracy']:.1%} | {found['recall']:.2f} |"
        )
    floor = document["rows"][0]["floor"]
    lines += [
        f"| *real images* | | | | | {floor['frechet_distance']:.3g} | | {floor['kernel_distance']:.3g}"
        f" | {floor.get('class_accuracy', float('nan')):.1%} | {floor['recall']:.2f} |",
        "",
        f"![samples of the same seeds, a row for each choice](quality-{bench['name']}.png)",
        "",
    ]
    return "\n".join(lines)


def best(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers of a choice at its best scale, means over its seeds, and the deviation of the distance."""
    scales = rows[0]["numbers"]

    def mean(scale: str, number: str) -> float:
        return statistics.fmean(row["numbers"][scale].get(number, float("nan")) for row in rows)

    scale = min(scales, key=lambda each: mean(each, "frechet_distance"))
    distances = [row["numbers"][scale]["frechet_distance"] for row in rows]
    spread = statistics.stdev(distances) if len(distances) > 1 else 0.0
    return {"cfg": scale, "spread": spread, **{name: mean(scale, name) for name in scales[scale]}}


def draw(rows: Sequence[Mapping[str, Any]], folder: Path, path: Path) -> None:
    """Draw some samples of each choice's first seed, a row each, of the classes in turn."""
    first = list({row["choice"]: row for row in reversed(rows)}.values())[::-1]
    pictures, titles = [], []
    for row in first:
        drawn = sorted((folder / row["samples"][0]).glob("[0-9]*.png"))
        chosen = drawn[:: max(len(drawn) // SHOWN, 1)][:SHOWN]
        pictures += [decode(file.read_bytes(), file.name) for file in chosen]
        titles.append(row["choice"])
    shown = np.stack(pictures)
    write_png(path, grid(shown, len(shown) // len(titles), row_labels=titles, scale=scale_for(shown)))


def _changed(settings: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return settings by command, each as it is typed."""
    return [f"`{command} {key}={typed(value)}`" for command, own in settings.items() for key, value in own.items()]
