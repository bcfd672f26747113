"""`ldm sweep`: run `sample` and `eval` at every combination asked for, then compare them.

The stages know nothing of each other: each run reads folders, and what compares them reads folders too.
"""

import importlib
from itertools import product
from typing import Any

from ..core.progress import Progress
from ..stages.configs import Eval, Sample
from ..stages.configs.sweep import Sweep

_MODULES = ("sample", "eval.samples", "tools.sweep")
_SHARED = ("name", "runs_dir", "seed", "replace", "machine")


def run(config: Sweep, console: Progress) -> Any:
    """Draw and evaluate samples at every scale and number of steps, those that are there aside. Returns the outcome."""
    sample, evaluate, sweep = (importlib.import_module(f"..stages.{name}", __package__) for name in _MODULES)
    shared: dict[str, Any] = {name: getattr(config, name) for name in _SHARED}
    points, seen = [], dict[str, Any]()
    for steps, cfg in product(dict.fromkeys(config.steps), dict.fromkeys(config.cfg)):
        console.note(f"cfg {cfg:g}, {steps} steps")
        how: dict[str, Any] = {
            **config.asked,
            "num": config.num,
            "sampler": config.sampler,
            "cfg": cfg,
            "steps": steps,
        }
        drawn = sample.run(Sample(**shared, **how), console).directory
        how_evaluated: dict[str, Any] = {
            name: getattr(config, name) for name in ("reference", "features", "weights", "limit")
        }
        evaluated = evaluate.run(Eval(**shared, **how_evaluated, samples=drawn.name), console, seen).directory
        points.append(sweep.Point(cfg, steps, drawn, evaluated))
    return sweep.compare(config, points, console)
