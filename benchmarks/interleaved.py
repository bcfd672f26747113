"""Compare ways of doing the same work by turns, in one process: times on a shared machine drift, ratios hold."""

import gc
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
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
    baseline = baseline or next(iter(variants))
    seconds = timed(variants, rounds, warmup)
    found = {name: summary(seconds[name], seconds[baseline]) for name in variants}
    return {"baseline": baseline, "rounds": rounds, "variants": found}


def timed(variants: Mapping[str, Callable[[], object]], rounds: int, warmup: int) -> dict[str, list[float]]:
    """Return the seconds of every variant in every round."""
    assert rounds >= 5, "the median of fewer than five says little"
    names = list(variants)
    for work in variants.values():
        for _ in range(warmup):
            work()
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        turned = names[number % len(names) :] + names[: number % len(names)]
        for name in turned:
            gc.collect()
            seconds[name].append(_time(variants[name]))
    return seconds


def summary(own: Sequence[float], base: Sequence[float]) -> dict[str, Any]:
    """Return what `compare` tells of a variant, from its seconds and the baseline's in the same rounds."""
    ratios = [theirs / ours for theirs, ours in zip(base, own, strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    return {
        "seconds": statistics.median(own),
        "spread": [min(own), max(own)],
        "ratio": middle,
        "ratio_spread": [low, high],
    }


def _time(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started
