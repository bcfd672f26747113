"""`ldm sweep`: run `sample` and `eval` at every combination asked for, then compare them.

The stages know nothing of each other: each run reads folders, and what compares them reads folders too.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from typing import Any

from ..core.progress import Progress
from ..core.runs.roles import DENOISER
from ..core.runs.run import MANIFEST
from ..stages.configs import Eval, Sample
from ..stages.configs.sweep import Sweep

_MODULES = (
    "stages.sample",
    "stages.eval.samples",
    "stages.tools.sweep",
    "core.pipeline.generator",
    "core.pipeline.asking",
)
_EVALUATED = ("reference", "features", "weights", "limit")
_TIMES = ("spacing", "shift")
_SHARED = ("name", "runs_dir", "seed", "replace", "machine")


def run(config: Sweep, console: Progress) -> Any:
    """Draw and evaluate samples in every way asked for, those that are there aside. Returns the outcome."""
    sample, evaluate, sweep, generator, asking = (
        importlib.import_module(f"..{name}", __package__) for name in _MODULES
    )
    config = asking.with_prompts(config)
    shared: dict[str, Any] = {name: getattr(config, name) for name in _SHARED}
    how_evaluated: dict[str, Any] = {name: getattr(config, name) for name in _EVALUATED}
    conditions: dict[str, Any] = config.asked
    points: list[Any] = []
    seen: dict[str, Any] = {}
    for how in _ways(config, shared, generator.open_generator, console):
        wanted = Sample(**shared, **conditions, num=config.num, **how)
        opened = generator.open_generator(wanted)
        sampling = opened.recorded(config.seed)
        by = "student" if "denoiser" in how else sampling["sampler"]
        if "autoguide" in how:
            by += f", autoguide {how['autoguide_scale']:g}"
        console.note(sweep.in_words(by, sampling["cfg"], sampling["steps"]))
        drawn = sample.run(wanted, console).directory
        evaluated = evaluate.run(Eval(**shared, **how_evaluated, samples=drawn.name), console, seen).directory
        points.append(sweep.Point(by, sampling["cfg"], sampling["steps"], opened.evaluations, drawn, evaluated))
    return sweep.compare(config, points, console)


def _ways(
    config: Sweep, shared: dict[str, Any], open_generator: Callable[[Sample], Any], console: Progress
) -> Iterator[dict[str, Any]]:
    """Yield the settings of drawing of each combination: the run's own generator, then the student of as many steps."""
    scales = [*dict.fromkeys(config.cfg)]
    # A generator that is not a denoiser may have steps of its own: where others are asked for, it refuses them.
    conditions: dict[str, Any] = config.asked
    taken = open_generator(Sample(**shared, **conditions)).settings
    usual, has_steps = type(config).model_fields, bool({"steps", "sampler"} & taken.keys())
    for steps in dict.fromkeys(config.steps):
        for sampler, away, cfg in product(dict.fromkeys(config.sampler), _away(config), scales):
            how: dict[str, Any] = {
                "steps": steps,
                "sampler": sampler,
                **{name: getattr(config, name) for name in _TIMES},
            }
            asked = {name: value for name, value in how.items() if getattr(config, name) != usual[name].default}
            yield {"cfg": cfg, **(how if has_steps else asked), **away}
        if config.students and has_steps:
            yield from _by_student(config, steps, scales, console)


def _away(config: Sweep) -> Iterator[dict[str, Any]]:
    """Yield the settings of autoguidance at each of its scales, of which 1 is without."""
    for scale in dict.fromkeys(config.autoguide_scale) if config.autoguide is not None else (1.0,):
        yield {} if scale == 1 else {"autoguide": config.autoguide, "autoguide_scale": scale}


def _by_student(config: Sweep, steps: int, scales: Sequence[float], console: Progress) -> Iterator[dict[str, Any]]:
    """Yield the settings of drawing by the run's student of so many steps, at the scales that it learned."""
    places = (config.root / kind / str(steps) for kind in DENOISER.labelled)
    for folder in filter(lambda place: (place / MANIFEST).is_file(), places):
        loading = importlib.import_module("..core.pipeline.loading", __package__)
        student = loading.student_of(loading.open_denoiser(folder, config))
        low, high = student.guidance
        for cfg in scales:
            if low <= cfg <= high:
                yield {"cfg": cfg, "denoiser": folder}
            else:
                console.note(
                    f"{folder} is left out at cfg {cfg:g}: it was distilled at scales from {low:g} to {high:g}"
                )
