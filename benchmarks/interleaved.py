"""Compare ways of doing the same work by turns, in one process: times on a shared machine drift, ratios hold."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch


def compare(
    variants: Mapping[str, Callable[[], object]], rounds: int = 7, warmup: int = 2, baseline: str | None = None
) -> dict[str, Any]:
    """Time every variant once per round, in an order that turns, and set each against the baseline of its own round.

    variants: name → one piece of work, the same for all; the first is the baseline unless another is named. warmup:
    calls of each before the first round. Returns, by name, `seconds` (median), `spread` (fastest and slowest) and
    `ratio` (median over the rounds of baseline / variant: 2 is twice as fast) with `ratio_spread` (its quartiles).
    """
    assert rounds >= 5, "the median of fewer than five says little"
    names = list(variants)
    baseline = baseline or names[0]
    for work in variants.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            gc.collect()
            seconds[name].append(_time(variants[name]))
    return {"baseline": baseline, "rounds": rounds, "variants": {n: _summary(seconds, n, baseline) for n in names}}


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def _summary(seconds: Mapping[str, list[float]], name: str, baseline: str) -> dict[str, Any]:
    ratios = [base / own for base, own in zip(seconds[baseline], seconds[name], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "seconds": statistics.median(seconds[name]),
        "spread": [min(seconds[name]), max(seconds[name])],
        "ratio": middle,
        "ratio_spread": [low, high],
    }
