"""Likelihood of held-out latents under a denoiser: `ldm eval --bits-per-dim`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...core.conditioning.conditioning import Conditioning
from ...core.diffusion import predictions
from ...core.diffusion.conditions import Cond
from ...core.images.order import spread
from ...core.latents.dataset import held_out_latents
from ...core.metrics.document import evaluation_outcome, write_evaluation
from ...core.metrics.evaluate import Report
from ...core.metrics.likelihood import Estimate, bits_per_dim
from ...core.pipeline.loading import load_model, open_denoiser, refuse_student, require_denoising
from ...core.pipeline.model import Model
from ...core.pipeline.training_data import training_data_of
from ...core.progress import Outcome, Progress
from ...core.runs.inputs import as_input
from ...core.runs.lock import occupy
from ...core.runs.outputs import claim, command_line, machine_policy, output_folder
from ...core.system.precision import Policy
from ..configs import Eval

LABEL = "likelihood"


def run(config: Eval, progress: Progress) -> Outcome:
    """Bound the likelihood of the run's held-out latents under its denoiser. Returns the folder of the numbers."""
    folder = output_folder(config, LABEL)
    with occupy(folder):
        policy = machine_policy(config.machine)
        source = open_denoiser(config.denoiser, config)
        require_denoising(source)
        refuse_student(source)
        data = training_data_of(source, config)
        inputs = {"denoiser": as_input(source, folder), **data.inputs(folder)}
        del inputs["autoencoder"]  # As recorded by the denoiser.
        work = claim(folder, config, inputs, progress)
        next_commands = [command_line("report", config)]
        if work.complete:
            return evaluation_outcome(work, next_commands)
        model = load_model(source, config, policy)
        held_out = data.read(policy, progress, "streamed").val
        chosen = spread(len(held_out), config.limit or len(held_out))
        progress.start("bounding the likelihood", len(chosen), "latents")

        def batches() -> Iterator[tuple[Tensor, Cond, Tensor]]:
            for start in range(0, len(chosen), config.batch_size):
                some = chosen[start : start + config.batch_size]
                indices = torch.from_numpy(some.astype(np.int64))
                yield held_out_latents(held_out, some), held_out.cond(some, some), indices
                progress.update(start + len(some))

        estimate = estimate_by(model, policy)
        bounds = bits_per_dim(estimate, model.schedule, batches(), config.times, config.seed, policy.device)
        progress.finish()
        numbers: dict[str, float] = {}
        for name, bound in bounds.items():
            numbers |= {
                f"bits_per_dim[{name} variance]": bound.total,
                f"first_step_bits[{name} variance]": bound.first,
                f"other_steps_bits[{name} variance]": bound.others,
                f"prior_bits[{name} variance]": bound.prior,
            }
            if bound.error is not None:
                numbers[f"bits_per_dim_error[{name} variance]"] = bound.error
        conditions: dict[str, Any] = {
            "of": f"density of normalised held-out latents, {_given(model.conditioning)}",
            "n_latents": len(chosen),
            "times_per_latent": min(config.times, model.schedule.num_steps - 1) + 1,
            "schedule": model.schedule.kind,
            "num_steps": model.schedule.num_steps,
            "prediction": model.diffusion.prediction,
            "autoencoder": source.manifest["inputs"]["autoencoder"]["fingerprint"],
        }
        return write_evaluation(work, LABEL, Report(numbers, {}, conditions), {}, [], [], next_commands)


def _given(conditioning: Conditioning) -> str:
    return f"conditional on their {conditioning.kind}" if conditioning.fields else "unconditional"


def estimate_by(model: Model, policy: Policy) -> Estimate:
    """Return the function that gives a model's estimate of x0 and the variances to bound.

    The learned one where there is one, else both of DDPM's.
    """

    def estimate(x_t: Tensor, t: Tensor, cond: Cond) -> tuple[Tensor, dict[str, Tensor]]:
        with policy.autocast():
            output = model.network(x_t, t, cond).float()
        alpha, sigma = (part.view(-1, 1, 1, 1) for part in model.schedule.alpha_sigma(t))
        if model.diffusion.learn_variance:
            output, rest = output.chunk(2, dim=1)
            fractions = {"learned": (rest + 1) / 2}
        else:
            fractions = {"posterior": torch.zeros(()), "beta": torch.ones(())}
        return predictions.to_x0(model.diffusion.prediction, output, x_t, alpha, sigma), fractions

    return estimate
