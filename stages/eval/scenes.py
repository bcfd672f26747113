"""`ldm eval` of samples whose prompts ask for built-in scenes: does each show what was asked for?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.images.dataset import ImageSource
from ...core.images.loader import ImageLoader
from ...core.images.sets import image_loader
from ...core.images.settings import Data
from ...core.metrics.document import evaluation_outcome, write_evaluation
from ...core.metrics.evaluate import Report
from ...core.metrics.inputs import limited
from ...core.metrics.scenes import asks_for_scenes, scene_numbers
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input, own_folders
from ...core.runs.outputs import claim, command_line
from ...core.runs.roles import CLASSIFIER
from ...core.runs.run import StageRun
from ..configs import Eval


def scenes_alone(config: Eval, samples: ImageSource) -> bool:
    """Return whether prompts ask for scenes, which need neither reference nor features, and none are given or there."""
    given = config.features != "auto" or config.weights is not None or config.reference is not None
    return bool(_prompts(samples)) and not given and not own_folders(CLASSIFIER, config.root)


def evaluate_scenes(
    config: Eval, made: StageRun, samples: ImageSource, data: Data, folder: Path, progress: Progress
) -> Outcome:
    """Measure whether samples show the scenes that their prompts ask for, and nothing else of them."""
    work = claim(folder, config, {"samples": as_input(made, folder)}, progress)
    next_commands = [command_line("report", config)]
    if work.complete:
        return evaluation_outcome(work, next_commands)
    fakes = image_loader(limited(samples, config), data, "sample", progress)
    report = with_scenes(Report({}, {}, {"n_samples": len(fakes), "n_reference": 0}), fakes)
    return write_evaluation(work, "samples", report, conditions_of_samples(made, made.path), [], [], next_commands)


def with_scenes(report: Report, samples: ImageLoader) -> Report:
    """Add to a report whether samples show the scenes that their prompts ask for, where they ask for some."""
    texts = _prompts(samples.source)
    if not texts:
        return report
    numbers, highest = scene_numbers(texts, samples.batch(np.arange(len(samples))))
    return replace(report, numbers=report.numbers | numbers, floor=report.floor | highest)


def conditions_of_samples(made: StageRun | None, where: Path) -> dict[str, Any]:
    """Return the settings of the samples, where they are known."""
    if made is None:
        return {"samples": str(where)}
    return {"sampling": made.metadata["sampling"], "image_size": made.metadata["image_size"]}


def _prompts(samples: ImageSource) -> list[str]:
    """Return the prompt of each sample, where they ask for built-in scenes."""
    texts = [text for (text,) in samples.captions or ()]
    return texts if asks_for_scenes(texts) else []
