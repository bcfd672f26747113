"""The results as tables, in docs/performance.md between the marks of each benchmark, and loss curves beside it."""

import json
import re
import statistics
from pathlib import Path
from typing import Any

from ldm.core.figures import INK, Line, Panel, line, svg

PAGE = Path(__file__).resolve().parents[1] / "docs" / "performance.md"
LOSSES = "performance-losses.svg"
_ROWS = 10  # of a table of curves
_INK = "#7d8590"  # read on white and on black, since a picture does not know the page's own ink

Points = list[tuple[int, float]]


def lines(document: dict[str, Any]) -> list[str]:
    """Return a result as Markdown."""
    if "skipped" in document:
        return [f"{document['benchmark']}: skipped: {document['skipped']}"]
    machine = document["machine"]
    rates = " and ".join(f"{rate:,} in {kind}" for kind, rate in machine["matmul_gflops"].items())
    written = [
        f"{machine['date']}, {machine['device']}, {machine['threads']} threads, bf16 by {machine['bf16_units']}, torch "
        f"{machine['torch']}; its products of 2048² matrices: GFLOP/s {rates}.",
    ]
    for name in ("conditions", "facts"):
        listed = [f"- {key.replace('_', ' ')}: {_number(value)}" for key, value in document.get(name, {}).items()]
        written += ["", *listed] if listed else []
    for title, comparison in document.get("comparisons", {}).items():
        written += ["", f"**{title}** ({comparison['rounds']} rounds by turns)", ""]
        written += ["| | median | fastest – slowest | times as fast | quartiles |", "|---|---:|---:|---:|---:|"]
        for variant, row in comparison["variants"].items():
            fast, slow = row["spread"]
            low, high = row["ratio_spread"]
            ratio = "1" if variant == comparison["baseline"] else f"**{row['ratio']:.2f}**"
            written.append(
                f"| {variant} | {_seconds(row['seconds'])} | {_seconds(fast)} – {_seconds(slow)} "
                f"| {ratio} | {low:.2f} – {high:.2f} |"
            )
    for title, curves in document.get("curves", {}).items():
        written += [
            "",
            f"![Loss of {' and of '.join(curves)}]({LOSSES})",
            "",
            f"**Mean loss, {title}**",
            "",
            *_side_by_side(curves),
        ]
    return written


def write(results: Path, page: Path = PAGE) -> None:
    """Renew every table of the page, and the picture of curves; where there is no result, nothing stands."""
    found = {file.stem: json.loads(file.read_text()) for file in sorted(results.glob("*.json"))}

    def section(marks: re.Match[str]) -> str:
        written = lines(found[marks["name"]]) if marks["name"] in found else []
        return "\n".join([marks["begin"], *written, marks["end"]])

    marks = r"(?P<begin><!-- (?P<name>\w+): begin -->)\n.*?(?P<end><!-- (?P=name): end -->)"
    page.write_text(re.sub(marks, section, page.read_text(), flags=re.DOTALL))
    for document in found.values():
        for curves in document.get("curves", {}).values():
            page.with_name(LOSSES).write_text(picture(curves))


def picture(curves: dict[str, Points]) -> str:
    """Draw curves as an SVG file."""
    lines = [line(name, points, colour) for colour, (name, points) in enumerate(curves.items())]
    lines[0] = Line(lines[0].label, lines[0].x, lines[0].y, INK, "--", 1.4)
    return svg(Panel("", "step", "loss", lines, log="y")).replace("currentColor", _INK)


def _side_by_side(curves: dict[str, Points]) -> list[str]:
    """Return a table of the curves, which have the same steps, and of the last one's ratio to the first."""
    names, steps = list(curves), [step for step, _ in next(iter(curves.values()))]
    written = [f"| steps | {' | '.join(names)} | ratio |", f"|---|{'---:|' * (len(names) + 1)}"]
    rows, before = min(_ROWS, len(steps)), 0
    for row in range(rows):
        part = slice(row * len(steps) // rows, (row + 1) * len(steps) // rows)
        means = [statistics.fmean(loss for _, loss in points[part]) for points in curves.values()]
        last = steps[part][-1]
        shown = " | ".join(f"{mean:.4f}" for mean in means)
        written.append(f"| {before + 1} – {last} | {shown} | {means[-1] / means[0]:.3f} |")
        before = last
    return written


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{value * 1e3:.3g} ms" if value >= 1e-3 else f"{value * 1e6:.3g} µs"


def _number(value: Any) -> str:
    return f"{value:,.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)
