"""`ldm distill`: a trained denoiser in, students of fewer and fewer steps out, each in a folder of its own."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..core.autoencoders.codec import Autoencoder
from ..core.conditioning.crops import CROP
from ..core.conditioning.registry import asking, conditioning_of
from ..core.denoisers import registry as denoisers
from ..core.denoisers.config import DenoiserConfig
from ..core.denoisers.network import DenoiserNetwork
from ..core.diffusion.distillation import CFG
from ..core.errors import ConfigError
from ..core.latents.dataset import LatentSets
from ..core.pipeline.generation import Sampling
from ..core.pipeline.loading import diffusion_of, load_model, open_denoiser, require_denoising, student_of
from ..core.pipeline.settings import Student
from ..core.pipeline.students import check_scale, usual_range, usual_sampling
from ..core.pipeline.training_data import TrainingData, training_data_of
from ..core.progress import Outcome, Progress
from ..core.runs.inputs import as_input
from ..core.runs.roles import DENOISER
from ..core.runs.run import StageRun
from ..core.system.precision import Policy
from ..core.training.generators import Kind, train_generator
from ..core.training.sample_evaluator import refuse_sampler
from ..core.training.start import Start
from ..core.training.tasks.distilling import DistillingTask
from .configs import Distill


def run(config: Distill, progress: Progress) -> Outcome:
    """Distill a denoiser, halving the steps student by student. Returns the last one's folder.

    Each student is a stage of its own: finished ones are not trained again, and an interrupted one continues.
    """
    teacher = open_denoiser(config.denoiser, config)
    guidance = _guidance(config, teacher)
    steps = config.first_steps
    while True:
        # Its recipe is the chain up to it, which names no folder of this run.
        own = config.model_copy(update={"steps": steps, "guidance": guidance})
        progress.note(f"student of {steps} steps" if steps > 1 else "student of one step")
        kind = _Student(own, teacher, Student(steps=steps, guidance=guidance))
        outcome = train_generator(own, kind, progress, label=str(steps))
        if steps == config.steps:
            student = shlex.quote(str(outcome.directory))
            commands = [f"{command} --denoiser {student}" for command in outcome.next_commands]
            return replace(outcome, next_commands=commands)
        teacher, steps = open_denoiser(outcome.directory, config), steps // 2


def _guidance(config: Distill, teacher: StageRun) -> tuple[float, float]:
    """Return the range of guidance scales. Raises ConfigError where the teacher cannot be guided so, or distilled."""
    known = student_of(teacher)
    has_null = conditioning_of(teacher.metadata).has_null
    require_denoising(teacher)
    diffusion = diffusion_of(teacher)
    if diffusion.prediction == "eps":
        raise ConfigError(
            f"{teacher.path} predicts the noise, from which x0 does not follow at t = 1",
            "distill one that was trained with `diffusion.prediction=v`",
        )
    if diffusion.learn_variance:
        raise ConfigError(
            f"{teacher.path} has learned the variance too, which students do not draw with",
            "distill one that was trained with `diffusion.learn_variance=no`",
        )
    if known is not None:
        if config.guidance not in (None, known.guidance):
            raise ConfigError(f"`guidance` of {teacher.path} is {known.guidance}", "leave `guidance` out")
        return known.guidance
    low, high = usual_range(has_null) if config.guidance is None else config.guidance
    if low < high:
        denoisers.require_scalars(teacher.path / "final", f"`guidance={low:g},{high:g}`")
    if (low, high) != (1.0, 1.0) and not has_null:
        raise ConfigError(
            f"`guidance` needs a null class, but {teacher.path} was trained with label dropout 0",
            "leave `guidance` out, or train with `label_dropout=0.1`",
        )
    return low, high


class _Student(Kind):
    """What its training has of its own."""

    config: Distill
    noun = "student"
    role = DENOISER
    families = denoisers.FAMILIES

    def __init__(self, config: Distill, teacher: StageRun, student: Student) -> None:
        super().__init__(config)
        self.teacher, self.student = teacher, student

    def data(self, policy: Policy) -> TrainingData:
        return training_data_of(self.teacher, self.config)

    def start(self, inputs: dict[str, Any], folder: Path) -> Start | None:
        inputs["denoiser"] = as_input(self.teacher, folder)
        return None

    def network(self, data: TrainingData, autoencoder: Autoencoder) -> DenoiserConfig:
        taught = denoisers.read_config(self.teacher.path / "final")
        scalars = tuple(name for name in taught.scalars if name != CROP)  # The teacher draws whole images.
        return taught.replace(scalars=(*scalars, CFG) if self.student.takes_scale else scalars)

    def sampling(self, data: TrainingData) -> Sampling:
        refuse_sampler(self.config.metrics, "a student draws in its own steps")
        check_scale(self.student, self.config.metrics.cfg)
        return usual_sampling(self.student, self.config.metrics.cfg)

    def task(
        self, network: DenoiserConfig, latents: LatentSets, autoencoder: Autoencoder, policy: Policy
    ) -> DistillingTask:
        model = load_model(self.teacher, self.config, policy)
        return DistillingTask(self.config, network, latents, autoencoder, policy, model, self.student)

    def describe(self, network: DenoiserConfig) -> Mapping[str, Any]:
        diffusion = diffusion_of(self.teacher).model_dump(mode="json")
        student = self.student.model_dump(mode="json")
        return {"diffusion": diffusion, "label_dropout": 0.0, "student": student}

    def save(self, network: DenoiserNetwork, folder: Path, extra: dict[str, Any]) -> None:
        denoisers.save(network, folder, extra)

    def sample_flags(self, data: TrainingData) -> str | None:
        return asking(data.conditioning).strip()
