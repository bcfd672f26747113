"""`metrics.jsonl` as it is read: by a training that resumes, and by commands that show a run. Imports no torch."""

import json
from pathlib import Path
from typing import Any

from ..files import read_plain

METRICS = "metrics.jsonl"
_LARGEST = 1e150
CONDITIONS = "conditions"  # key, in the line of an evaluation, of what its numbers depend on


def read(path: Path) -> list[dict[str, Any]]:
    """Read a `metrics.jsonl`, without a last line cut short by a kill and values that are not finite numbers."""
    lines: list[dict[str, Any]] = []
    if not path.exists():
        return lines
    for text in read_plain(path).decode("utf-8", "replace").splitlines():
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict):
            is_evaluation = isinstance(line.get(CONDITIONS), dict)  # Such lines hold objects, too.
            line = {k: v for k, v in line.items() if _is_number(v) or (is_evaluation and isinstance(v, dict))}
            if isinstance(line.get("images"), int):
                lines.append(line)
    return lines


def _is_number(value: object) -> bool:
    """Return whether a value is a number small enough for sums, means and axes."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and -_LARGEST < value < _LARGEST
