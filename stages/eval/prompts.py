"""`ldm eval` of samples with prompts: does each show what was asked for?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...core.errors import ConfigError
from ...core.features.texts import CLIP
from ...core.images.dataset import ImageSource
from ...core.images.loader import ImageLoader
from ...core.images.sets import image_loader, image_sources
from ...core.images.settings import Data
from ...core.metrics.clip_score import NAME, Clip, clip_score, open_clip
from ...core.metrics.document import evaluation_outcome, write_evaluation
from ...core.metrics.evaluate import Report
from ...core.metrics.inputs import limited
from ...core.metrics.scenes import asks_for_scenes, scene_numbers
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input, own_folders
from ...core.runs.outputs import claim, command_line
from ...core.runs.roles import CLASSIFIER
from ...core.runs.run import StageRun
from ...core.runs.schemas import size_of, size_recorded
from ...core.system.precision import Policy
from ..configs import Eval

_HELD_OUT = 500  # images, at most, whose score stands beside that of samples


def open_clip_of(config: Eval, samples: ImageSource, policy: Policy) -> Clip | None:
    """Open the CLIP that is to score samples. Raises ConfigError where they record no prompts."""
    if config.clip is None:
        return None
    if samples.captions is None:
        raise ConfigError(
            f"`clip={config.clip}` compares images with prompts, and these samples record none",
            "give samples of `ldm sample` of a model of captions",
        )
    return open_clip(config.clip, policy.device)


def clip_input(config: Eval, clip: Clip | None) -> dict[str, dict[str, Any]]:
    """Return the CLIP as an input of the evaluation, where there is one."""
    return {} if clip is None else {CLIP: {"path": str(config.clip), "fingerprint": clip.sha256}}


def prompts_alone(config: Eval, samples: ImageSource) -> bool:
    """Return whether prompts are all that samples are compared with: no reference or features are given or there.

    So it is where they ask for scenes, and where a CLIP is given.
    """
    given = config.features != "auto" or config.weights is not None or config.reference is not None
    scored = bool(_prompts(samples)) or config.clip is not None
    return scored and not given and not own_folders(CLASSIFIER, config.root)


def evaluate_prompts(
    config: Eval,
    made: StageRun,
    samples: ImageSource,
    data: Data,
    folder: Path,
    clip: Clip | None,
    progress: Progress,
) -> Outcome:
    """Measure whether samples show what their prompts ask for, and nothing else of them."""
    work = claim(folder, config, {"samples": as_input(made, folder), **clip_input(config, clip)}, progress)
    next_commands = [command_line("report", config)]
    if work.complete:
        return evaluation_outcome(work, next_commands)
    fakes = image_loader(limited(samples, config), data, "sample", progress)
    report = Report({}, {}, {"n_samples": len(fakes), "n_reference": 0})
    report = with_prompts(report, fakes, clip, data, progress)
    return write_evaluation(work, "samples", report, conditions_of_samples(made, made.path), [], [], next_commands)


def with_prompts(report: Report, samples: ImageLoader, clip: Clip | None, data: Data, progress: Progress) -> Report:
    """Add to a report how samples go with their prompts: by the scenes that they ask for, and by a CLIP.

    Beside the CLIP score stands that of held-out images with their captions, where they have some.
    """
    texts = _prompts(samples.source)
    if texts:
        numbers, highest = scene_numbers(texts, samples.batch(np.arange(len(samples))))
        report = replace(report, numbers=report.numbers | numbers, floor=report.floor | highest)
    if clip is None:
        return report
    held_out, real = image_sources(data), dict[str, float]()
    if held_out.captioned:
        images = image_loader(held_out.with_captions().val, data, "held-out", progress, keep=False)
        real = {NAME: clip_score(clip, images, _HELD_OUT)}
    numbers = {NAME: clip_score(clip, samples)}
    conditions = report.conditions | {"clip_sha256": clip.sha256, "clip_score": "100 * max(cosine, 0)"}
    return replace(report, numbers=report.numbers | numbers, floor=report.floor | real, conditions=conditions)


def conditions_of_samples(made: StageRun | None, where: Path) -> dict[str, Any]:
    """Return the settings of the samples, where they are known."""
    if made is None:
        return {"samples": str(where)}
    return {"sampling": made.metadata["sampling"], **size_recorded(size_of(made.metadata))}


def _prompts(samples: ImageSource) -> list[str]:
    """Return the prompt of each sample, where they ask for built-in scenes."""
    texts = [text for (text,) in samples.captions or ()]
    return texts if asks_for_scenes(texts) else []
