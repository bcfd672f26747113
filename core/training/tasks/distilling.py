"""A student of a trained denoiser, as the loop trains it: it takes one step where the teacher takes two."""

from functools import partial

import numpy as np
import torch

from ...autoencoders.codec import Autoencoder
from ...conditioning.conditioning import unconditional
from ...denoisers.config import DenoiserConfig
from ...diffusion.denoisers import Denoiser
from ...diffusion.distillation import Distillation, guided_by_sample
from ...diffusion.guidance import classifier_free
from ...latents.dataset import LatentSets
from ...pipeline.model import Guidance, Model, guided
from ...pipeline.settings import Student
from ...pipeline.students import usual_sampling
from ...system.precision import Policy
from ...training.preview import draw_preview
from ..settings import DenoiserTrain
from .denoising import DenoisingTask
from .settings import DenoiserTraining, DistillTraining


class DistillingTask(DenoisingTask):
    """Distillation of a teacher, from whose weights the student starts. teacher: frozen; itself a student, or not."""

    def __init__(
        self,
        config: DistillTraining,
        network: DenoiserConfig,
        latents: LatentSets,
        autoencoder: Autoencoder,
        policy: Policy,
        teacher: Model,
        student: Student,
    ) -> None:
        shared = {name: getattr(config, name) for name in ("name", "runs_dir", "seed", "preview", "machine")}
        train = DenoiserTrain(**config.train.model_dump())
        denoising = DenoiserTraining(diffusion=teacher.diffusion, label_dropout=0.0, train=train, **shared)
        super().__init__(denoising, network, latents, autoencoder, policy)
        self.student: Student = student
        self.conditioning = teacher.conditioning
        self.objective = Distillation(
            schedule=teacher.schedule,
            teacher=_teaching(teacher, student, policy),
            num_steps=student.steps,
            prediction=teacher.diffusion.prediction,
            weighting=config.weighting,
            shift=teacher.diffusion.shift,
            guidance=student.guidance if student.takes_scale else None,
        )

        # Scalars that the teacher does not take start at 0, so that the student is the teacher at first.
        with torch.no_grad():
            own, given = self.network.state_dict(), teacher.network.state_dict()
            for name, tensor in own.items():
                if name in given:
                    tensor.copy_(given[name])

    def _preview(self) -> tuple[np.ndarray, list[str]]:
        """Draw the preview in the student's own steps."""
        return draw_preview(self.generator(usual_sampling(self.student)), self.conditioning, self.config.preview)


def _teaching(teacher: Model, student: Student, policy: Policy) -> Denoiser:
    """Return the teacher's denoiser, guided at each sample's scale, or at the one that there is."""
    denoise = guided(teacher, Guidance(), policy).denoise
    if teacher.student is not None:
        return denoise  # Guidance is inside.
    null = partial(unconditional, teacher.conditioning)
    if student.takes_scale:
        return guided_by_sample(denoise, null)
    return classifier_free(denoise, student.guidance[0], null)
