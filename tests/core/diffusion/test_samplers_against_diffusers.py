"""The schedulers of diffusers, fed the same table in float64, the same network and the same noise."""

import numpy as np
import pytest
import torch

from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.schedules import schedule
from tests.support.ideal_denoisers import gaussian

diffusers = pytest.importorskip("diffusers")

SHAPE = (2, 3, 4, 4)
KINDS = {"eps": "epsilon", "x0": "sample", "v": "v_prediction"}
DIVISORS = (10, 20, 25, 50, 100, 250)
WEIGHT = torch.randn(3, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64) / 3


def network(x, t, cond):
    """A small fixed nonlinear network of x and t, in the precision of x."""
    mixed = torch.einsum("bchw,cd->bdhw", x, WEIGHT.to(x.dtype))
    return torch.tanh(mixed + t.to(x.dtype).view(-1, 1, 1, 1))


def start():
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def scheduler_of(cls, path, kind, **options):
    theirs = cls(prediction_type=KINDS[kind], **options)
    theirs.alphas_cumprod = path.alpha_bars.clone()
    return theirs


def run(theirs, steps, x, **options):
    """Walk a scheduler of diffusers through its timesteps k; the network is asked at t = (k + 1) / T."""
    theirs.set_timesteps(steps)
    for k in theirs.timesteps:
        t = torch.full((len(x),), (int(k) + 1) / 1000, dtype=torch.float32)
        x = theirs.step(network(x, t, None), k, x, **options).prev_sample
    return x


def seeded_noise(seed=11):
    g = torch.Generator().manual_seed(seed)
    return g, lambda i: torch.randn(SHAPE, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize(("eta", "steps"), [(0.0, 25), (0.6, 10), (1.0, 25)])
def test_ddim_is_that_of_diffusers(kind, spacing, eta, steps):
    path = schedule("linear")
    theirs = scheduler_of(diffusers.DDIMScheduler, path, kind, clip_sample=False, timestep_spacing=spacing)
    theirs.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    g, _ = seeded_noise()
    expected = run(theirs, steps, start(), eta=eta, generator=g)
    _, noise = seeded_noise()
    grid = times.grid(1000, steps, spacing)
    ours = samplers.ddim(denoiser(network, path, kind), start(), path, grid, None, eta=eta, noise=noise)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("steps", DIVISORS)
def test_ddim_is_that_of_diffusers_at_all_divisors(steps):
    path = schedule("scaled-linear")
    theirs = scheduler_of(diffusers.DDIMScheduler, path, "v", clip_sample=False, timestep_spacing="trailing")
    expected = run(theirs, steps, start())
    ours = samplers.ddim(denoiser(network, path, "v"), start(), path, times.grid(1000, steps), None)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_stable_diffusion_s_grid_is_its_ddim_configuration():
    path = schedule("scaled-linear")
    theirs = scheduler_of(
        diffusers.DDIMScheduler, path, "eps", clip_sample=False, set_alpha_to_one=False, steps_offset=1
    )
    theirs.final_alpha_cumprod = path.alpha_bars[0]
    expected = run(theirs, 50, start())
    grid = times.grid(1000, 50, "leading", offset=1, to_zero=False)
    ours = samplers.ddim(denoiser(network, path, "eps"), start(), path, grid, None)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("spacing", "steps"), [("trailing", 36), ("linspace", 20)])
def test_where_diffusers_steps_beside_its_own_list_the_difference_is_the_previous_timestep(spacing, steps):
    """Its previous timestep is k − T // S, which these lists do not hold; with the listed one it is our sampler."""
    path = schedule("linear")
    theirs = scheduler_of(diffusers.DDIMScheduler, path, "v", clip_sample=False, timestep_spacing=spacing)
    off = run(theirs, steps, start())
    ours = samplers.ddim(denoiser(network, path, "v"), start(), path, times.grid(1000, steps, spacing), None)
    assert float((ours - off).abs().max()) > 1e-4

    listed, x = [int(k) for k in theirs.timesteps], start()
    theirs.num_inference_steps = 1
    for k, previous in zip(listed, [*listed[1:], -1], strict=True):
        theirs.register_to_config(num_train_timesteps=k - previous)  # makes k − T // S the listed one
        t = torch.full((2,), (k + 1) / 1000, dtype=torch.float32)
        x = theirs.step(network(x, t, None), k, x).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("variance", "theirs_is"), [("posterior", "fixed_small"), ("beta", "fixed_large")])
@pytest.mark.parametrize("steps", [10, 50])
def test_ddpm_is_that_of_diffusers(kind, variance, theirs_is, steps):
    path = schedule("linear")
    theirs = scheduler_of(
        diffusers.DDPMScheduler, path, kind, clip_sample=False, timestep_spacing="leading", variance_type=theirs_is
    )
    theirs.one = torch.tensor(1.0, dtype=torch.float64)
    g, _ = seeded_noise()
    expected = run(theirs, steps, start(), generator=g)
    _, noise = seeded_noise()
    grid = times.grid(1000, steps, "leading")
    ours = samplers.ddpm(denoiser(network, path, kind), start(), path, grid, None, variance=variance, noise=noise)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=1e-6)


def test_learned_variance_ddpm_is_that_of_diffusers():
    path = schedule("linear")
    theirs = scheduler_of(
        diffusers.DDPMScheduler,
        path,
        "eps",
        clip_sample=False,
        timestep_spacing="leading",
        variance_type="learned_range",
    )
    theirs.one = torch.tensor(1.0, dtype=torch.float64)
    theirs.set_timesteps(20)
    g, _ = seeded_noise()
    x = start()
    for k in theirs.timesteps:
        t = torch.full((2,), (int(k) + 1) / 1000, dtype=torch.float32)
        output = torch.cat([network(x, t, None), torch.sin(x)], dim=1)
        # At 20 of 1000 steps its upper bound is the β of the table instead of the step's own: hand it that one.
        previous = theirs.previous_timestep(k)
        before = path.alpha_bars[previous] if previous >= 0 else torch.ones(())
        theirs.betas[k] = 1 - path.alpha_bars[k] / before
        x = theirs.step(output, k, x, generator=g).prev_sample
    _, noise = seeded_noise()
    ours = samplers.ddpm(
        denoiser(network, path, "eps"),
        start(),
        path,
        times.grid(1000, 20, "leading"),
        None,
        variance=lambda x, t, cond: (torch.sin(x) + 1) / 2,
        noise=noise,
    )
    torch.testing.assert_close(ours, x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("kind", "steps"), [("eps", 20), ("x0", 20), *(("v", steps) for steps in (7, 33, *DIVISORS))])
def test_dpm_solver_is_that_of_diffusers(kind, steps):
    path = schedule("linear")
    theirs = scheduler_of(
        diffusers.DPMSolverMultistepScheduler, path, kind, timestep_spacing="trailing", final_sigmas_type="zero"
    )
    theirs.set_timesteps(steps)
    table = path.alpha_bars[theirs.timesteps]
    theirs.sigmas = torch.cat([((1 - table) / table).sqrt(), torch.zeros(1, dtype=torch.float64)])
    x, outputs = start(), []
    for i, k in enumerate(theirs.timesteps):  # as its `step`, which would round x to float32
        theirs._step_index = i
        t = torch.full((2,), (int(k) + 1) / 1000, dtype=torch.float32)
        outputs = [*outputs[-1:], theirs.convert_model_output(network(x, t, None), sample=x)]
        if 0 < i < steps - 1:
            x = theirs.multistep_dpm_solver_second_order_update(outputs, sample=x)
        else:
            x = theirs.dpm_solver_first_order_update(outputs[-1], sample=x)
    ours = samplers.dpmpp_2m(denoiser(network, path, kind), start(), path, times.grid(1000, steps), None)
    torch.testing.assert_close(ours, x, rtol=1e-6, atol=1e-6)


def test_dpm_solver_s_own_step_agrees_in_its_float32():
    path = schedule("linear")
    theirs = scheduler_of(
        diffusers.DPMSolverMultistepScheduler, path, "v", timestep_spacing="trailing", final_sigmas_type="zero"
    )
    ours = samplers.dpmpp_2m(denoiser(network, path, "v"), start(), path, times.grid(1000, 20), None)
    torch.testing.assert_close(ours, run(theirs, 20, start()), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("steps", [7, 20])
def test_euler_on_rectified_flow_is_that_of_diffusers(shift, steps):
    """Their sampler computes in float32, hence the float32 start; their velocity is eps − x0 at time σ, as ours."""
    path = schedule("rectified-flow")
    theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    theirs.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    x = start().float()
    for k, sigma in zip(theirs.timesteps, theirs.sigmas, strict=False):
        x = theirs.step(network(x, sigma.repeat(2), None), k, x).prev_sample
    grid = times.shift(times.grid(1000, steps, "uniform"), shift)
    for sampler in (samplers.euler, samplers.ddim):
        ours = sampler(denoiser(network, path, "flow"), start().float(), path, grid, None)
        torch.testing.assert_close(ours, x, rtol=1e-6, atol=2e-6)


def test_clipping_the_sample_is_what_shrinks_latents_in_diffusers():
    """Its default clip_sample=True on unit-variance data, with the exact denoiser: std 0.71 where ours is 0.97."""
    path = schedule("linear")
    x = torch.randn(1, 1, 100, 100, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    theirs = scheduler_of(diffusers.DDIMScheduler, path, "x0", timestep_spacing="trailing")
    theirs.set_timesteps(50)
    y = x
    for k in theirs.timesteps:
        y = theirs.step(path.alpha_bars[k].sqrt() * y, k, y).prev_sample
    ours = samplers.ddim(lambda x, t, c: path.alpha_sigma(t)[0] * x, x, path, times.grid(1000, 50), None)
    assert float(y.std()) == pytest.approx(0.71, abs=0.03)
    assert float(ours.std()) == pytest.approx(0.97, abs=0.02)


@pytest.mark.parametrize(("steps", "golden"), [(8, 0.367241), (14, 0.454039), (20, 0.485164)])
def test_the_flow_dpm_solver_is_that_of_diffusers_with_its_grid_and_shift(steps, golden):
    """On data N(0, 1/4) with their exact denoiser, from x = 1; steps without end lead to 0.500167."""
    path = schedule("rectified-flow")
    theirs = diffusers.DPMSolverMultistepScheduler(
        use_flow_sigmas=True, flow_shift=3.0, prediction_type="flow_prediction"
    )
    theirs.set_timesteps(steps)
    grid = times.shift(times.grid(1000, steps, "flow"), 3.0)
    torch.testing.assert_close(grid, theirs.sigmas.double(), rtol=0, atol=2e-7)
    denoise, x = gaussian(path, 0.0, 0.5), torch.ones(1, 1, dtype=torch.float64)
    ours, x_t = samplers.dpmpp_2m(denoise, x, path, grid, None), x
    for k, sigma in zip(theirs.timesteps, theirs.sigmas[:-1].double(), strict=True):
        x_t = theirs.step((x_t - denoise(x_t, sigma, None)) / sigma, k, x_t).prev_sample
    assert float(ours) == pytest.approx(golden, abs=1e-6)
    assert float(x_t) == pytest.approx(float(ours), abs=1e-5)
