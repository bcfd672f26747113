"""The results as tables, in docs/performance.md between the marks of each benchmark."""

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"


def lines(document: dict[str, Any]) -> list[str]:
    """Return a result as Markdown."""
    if "skipped" in document:
        return [f"{document['benchmark']}: skipped: {document['skipped']}"]
    machine = document["machine"]
    rates = " and ".join(f"{rate:,} in {kind}" for kind, rate in machine["matmul_gflops"].items())
    told = [
        f"{machine['date']}, {machine['device']}, {machine['threads']} threads, bf16 by {machine['bf16_units']}, torch "
        f"{machine['torch']}; its products of 2048² matrices: GFLOP/s {rates}.",
    ]
    for name in ("conditions", "facts"):
        listed = [f"- {key.replace('_', ' ')}: {_number(value)}" for key, value in document.get(name, {}).items()]
        told += ["", *listed] if listed else []
    for title, comparison in document.get("comparisons", {}).items():
        told += ["", f"**{title}** ({comparison['rounds']} rounds by turns)", ""]
        told += ["| | median | fastest – slowest | times as fast | quartiles |", "|---|---:|---:|---:|---:|"]
        for variant, row in comparison["variants"].items():
            fast, slow = row["spread"]
            low, high = row["ratio_spread"]
            ratio = "1" if variant == comparison["baseline"] else f"**{row['ratio']:.2f}**"
            told.append(
                f"| {variant} | {_seconds(row['seconds'])} | {_seconds(fast)} – {_seconds(slow)} "
                f"| {ratio} | {low:.2f} – {high:.2f} |"
            )
    return told


def write(results: Path) -> None:
    """Renew every table of the page whose result there is."""
    text = PAGE.read_text()
    for file in sorted(results.glob("*.json")):
        begin, end = f"<!-- {file.stem}: begin -->", f"<!-- {file.stem}: end -->"
        if begin not in text:  # `gpu` prints its figures itself.
            continue
        table = "\n".join(lines(json.loads(file.read_text())))
        pattern = re.escape(begin) + ".*?" + re.escape(end)
        text = re.sub(pattern, lambda _, new=f"{begin}\n{table}\n{end}": new, text, flags=re.DOTALL)
    PAGE.write_text(text)


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
