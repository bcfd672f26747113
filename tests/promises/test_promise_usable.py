"""R31: whatever the settings accept together can be trained, and sampled by an imperfect network."""

import itertools

import pytest
import torch
from torch import Tensor

from ldm.core.denoisers.families import FAMILIES
from ldm.core.diffusion import guidance, predictions, samplers, times
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.names import PREDICTIONS, SCHEDULES, STRAIGHT, WEIGHTINGS, check_prediction
from ldm.core.diffusion.schedules import Schedule, schedule
from ldm.core.pipeline.model import Guidance, Model, guided
from ldm.core.system.precision import resolve
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch, Plan
from ldm.core.training.tasks.denoising import DenoisingTask, network_config
from ldm.stages.configs import TrainDenoiser
from ldm.stages.tools import dummy
from tests.support.ledger import Trials
from tests.support.small_denoisers import SIZES

ERROR, SAMPLES, STEPS = 0.01, 2000, {False: 20, True: 200}


def accepted() -> list[tuple[str, bool, str]]:
    """The schedules, with and without zero terminal SNR, and the predictions that they allow."""
    found = []
    for kind, zero, prediction in itertools.product(SCHEDULES, (False, True), PREDICTIONS):
        try:
            check_prediction(prediction, kind, zero)
        except ValueError:
            continue
        if (kind, zero) != (STRAIGHT, True):  # which is the same path
            found.append((kind, zero, prediction))
    return found


def noise_of(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> samplers.Noise:
    """Return noise that is fresh at every call, and the same for every sampling."""
    g = torch.Generator().manual_seed(1)
    return lambda step: torch.randn(shape, generator=g, dtype=dtype)


def deviation(path: Schedule, prediction: str, sampler: str, cfg: float) -> float:
    """Sample standard normal data at default steps by a network that is right but for an error of 1 %."""
    g = torch.Generator().manual_seed(0)

    def network(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        alpha, sigma = (part.view(-1, 1) for part in path.alpha_sigma(t.double()))
        x0 = alpha * x_t / (alpha**2 + sigma**2)
        right = predictions.target(prediction, x0, predictions.to_eps(x0, x_t, alpha, sigma), alpha, sigma)
        size = 2**0.5 if prediction == "flow" else 1.0  # of the target, ε − x0, and of the others
        return right + ERROR * size * torch.randn(x_t.shape, generator=g, dtype=torch.float64)

    denoise = denoiser(network, path, prediction)
    if cfg != 1:
        denoise = guidance.classifier_free(denoise, cfg, lambda cond: cond)
    grid = times.grid(path.num_steps, samplers.DEFAULT_STEPS[sampler]) * predictions.latest_time(prediction, path)
    fresh = noise_of((SAMPLES, 1))
    return float(samplers.SAMPLERS[sampler](denoise, fresh(0), path, grid, {}, noise=fresh).std())


@pytest.mark.promise("R31")
@pytest.mark.parametrize("cfg", [pytest.param(1.0, marks=pytest.mark.slow), 3.0])
@pytest.mark.parametrize(("kind", "zero", "prediction"), accepted())
def test_samples_keep_their_deviation_though_the_network_errs_by_a_hundredth(
    kind: str, zero: bool, prediction: str, cfg: float
) -> None:
    """Guided, both estimates err by themselves."""
    path = schedule(kind, zero_terminal_snr=zero)
    for sampler in samplers.SAMPLERS:
        assert 0.9 < deviation(path, prediction, sampler, cfg) < 1.1, sampler


SAMPLERS = list(samplers.SAMPLERS)
CHOICES = list(itertools.product(accepted(), WEIGHTINGS))


@pytest.mark.promise("R31", quick=1, full=len(CHOICES))
@pytest.mark.parametrize("family", SIZES)
def test_what_is_accepted_trains_and_samples_to_finite_numbers(family: str, trials: Trials) -> None:
    """Each schedule, prediction and weighting, in turn by every sampler, guided with all that guidance has."""
    assert SIZES.keys() == FAMILIES.keys()
    policy = resolve("cpu", "fp32")
    for number, _ in enumerate(trials):
        (kind, zero, prediction), weighting = CHOICES[number]
        settings = {"schedule": kind, "zero_terminal_snr": zero, "prediction": prediction, "weighting": weighting}
        train = {"batch_size": 8, "lr": 2e-3, "warmup": 0, "images": 8 * STEPS[trials.full]}
        config = TrainDenoiser.model_validate({"model": SIZES[family], "diffusion": settings, "train": train})
        latents = dummy.latents((2, 8, 8), 3, False, policy.device)
        network = network_config(config, (2, 8, 8), latents.conditioning)
        task = DenoisingTask(config, network, latents, None, policy)

        # Training, by the stage's own steps.
        stepper = Stepper(task, Plan(**config.train.model_dump(), seed=0), policy)
        for step in range(STEPS[trials.full]):
            positions = 8 * step + torch.arange(8).numpy()
            stepper.step(task.load(Batch(positions % task.num_samples, positions, 8 * step)), step, 8 * step)
        assert stepper.guard.skipped == 0
        stepper.keep_ema()

        # Sampling, from guided noise.
        sampler = SAMPLERS[number % len(SAMPLERS)]
        model = Model(task.network, None, config.diffusion, (2, 8, 8), task.conditioning)  # type: ignore[arg-type]
        how = Guidance(cfg=3.0, cfg_interval=(0.1, 0.9), cfg_rescale=0.7)
        denoise = guided(model, how, policy, ddpm=sampler == "ddpm").denoise
        grid = model.grid(samplers.DEFAULT_STEPS[sampler] if trials.full else 4)
        fresh, cond = noise_of((4, 2, 8, 8), torch.float32), {"labels": torch.tensor([0, 1, 2, 0])}
        sampled = samplers.SAMPLERS[sampler](denoise, fresh(0), model.schedule, grid, cond, noise=fresh)
        assert bool(torch.isfinite(sampled).all())
