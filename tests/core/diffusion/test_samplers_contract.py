import pytest
import torch

from ldm.core.diffusion import conditions, guidance, samplers, times
from ldm.core.diffusion.denoisers import denoiser
from ldm.core.diffusion.schedules import schedule
from tests.support.ideal_denoisers import draws, gaussian, mixture, starts

PATHS = [("linear", False), ("scaled-linear", False), ("cosine", True), ("rectified-flow", True)]
EVERY_PATH = pytest.mark.parametrize(("kind", "zero"), PATHS)


@pytest.mark.parametrize("name", samplers.SAMPLERS)
@EVERY_PATH
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_the_step_to_zero_returns_the_estimate_itself(name, kind, zero, steps):
    path, seen = schedule(kind, zero_terminal_snr=zero), []
    x = starts().float()
    end = samplers.SAMPLERS[name](
        mixture(path),
        x,
        path,
        times.grid(1000, steps),
        None,
        noise=lambda i: torch.ones_like(x),
        on_step=lambda i, t, x, x0: seen.append((i, t, x, x0)),
    )
    assert end.dtype == torch.float32 and end.shape == x.shape and torch.isfinite(end).all()
    assert torch.equal(end, seen[-1][3]) and torch.equal(end, seen[-1][2])
    assert [i for i, *_ in seen] == list(range(steps))
    assert [t for _, t, *_ in seen] == times.grid(1000, steps)[1:].tolist()


@pytest.mark.parametrize(
    ("name", "evaluations"), [("ddim", 9), ("ddpm", 9), ("euler", 9), ("heun", 17), ("dpmpp-2m", 9)]
)
def test_the_denoiser_is_asked_once_per_step_and_twice_by_heun(name, evaluations):
    path, seen = schedule("cosine"), []
    asked_for = {"labels": torch.zeros(5)}

    def counting(x, t, cond):
        assert t.ndim == 0 and t.device.type == "cpu" and t.dtype == torch.float64 and cond is asked_for
        seen.append(float(t))
        return 0.5 * x

    x = starts()
    samplers.SAMPLERS[name](counting, x, path, times.grid(1000, 9), asked_for, noise=draws(x.shape))
    assert len(seen) == evaluations and min(seen) > 0 and max(seen) == 1


def test_a_batch_is_its_samples_alone():
    path = schedule("linear")
    x = starts(6)
    grid, kept = times.grid(1000, 10), draws((6, 1))
    for name, sampler in samplers.SAMPLERS.items():
        together = sampler(mixture(path), x, path, grid, None, noise=kept)
        alone = sampler(mixture(path), x[4:5], path, grid, None, noise=lambda i: kept(i)[4:5])
        torch.testing.assert_close(together[4:5], alone, rtol=0, atol=1e-14, msg=name)


def test_ddpm_with_a_gradient_moves_each_mean_by_variance_times_gradient():
    """Over one unit step nothing else may change; and the noise of the last step is none."""
    path = schedule("linear")
    grid = torch.tensor([0.5, 0.499], dtype=torch.float64)
    x, noise = starts(), draws((5, 1))
    plain = samplers.ddpm(gaussian(path), x, path, grid, None, variance="beta", noise=noise)
    pushed = samplers.ddpm(
        gaussian(path),
        x,
        path,
        grid,
        None,
        variance="beta",
        noise=noise,
        gradient=lambda x, t, y: torch.full_like(x, 3.0),
    )
    beta = 1 - path.alpha_bars[499] / path.alpha_bars[498]
    torch.testing.assert_close(pushed - plain, torch.full_like(x, 3.0 * float(beta)), rtol=1e-9, atol=0)


def test_noise_is_asked_only_where_it_is_added():
    path = schedule("linear")
    asked = []

    def noise(i):
        asked.append(i)
        return torch.zeros(5, 1, dtype=torch.float64)

    for sampler, options, expected in (
        (samplers.ddim, {"eta": 0.0}, []),
        (samplers.ddim, {"eta": 0.5}, [0, 1, 2]),
        (samplers.ddpm, {}, [0, 1, 2]),
        (samplers.euler, {}, []),
    ):
        asked.clear()
        sampler(gaussian(path), starts(), path, times.grid(1000, 4), None, noise=noise, **options)
        assert asked == expected


@pytest.mark.parametrize("name", samplers.SAMPLERS)
def test_no_step_waits_for_the_device(name):
    """On the meta device tensors have no values: looking at one, as a device synchronisation does, is an error."""
    path = schedule("cosine")
    denoise = guidance.classifier_free(
        denoiser(lambda x, t, cond: x * t.view(-1, 1) * cond["labels"].view(-1, 1), path, "v"),
        3.0,
        lambda cond: conditions.each(cond, torch.zeros_like),
        interval=(0.2, 0.8),
        rescale=0.5,
    )
    x = torch.empty(2, 4, device="meta")
    cond = {"labels": torch.empty(2, device="meta")}
    grid = times.grid(1000, 6)
    end = samplers.SAMPLERS[name](denoise, x, path, grid, cond, noise=lambda i: torch.empty_like(x))
    assert end.device.type == "meta" and end.shape == x.shape
    with pytest.raises(RuntimeError):
        float(end.sum())


def test_no_graph_is_kept():
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    path = schedule("linear")
    for sampler in samplers.SAMPLERS.values():
        x = sampler(lambda x, t, c: weight * x, starts(), path, times.grid(1000, 3), None, noise=draws((5, 1)))
        assert not x.requires_grad


def test_what_a_sampler_cannot_do_is_refused():
    path, x = schedule("linear"), starts()
    grid = times.grid(1000, 4)
    with pytest.raises(ValueError, match=r"eta is 1\.5"):
        samplers.ddim(gaussian(path), x, path, grid, None, eta=1.5)
    with pytest.raises(ValueError, match="noise"):
        samplers.ddpm(gaussian(path), x, path, grid, None)
    with pytest.raises(ValueError, match="'small' is not one of posterior, beta"):
        samplers.ddpm(gaussian(path), x, path, grid, None, variance="small")
    for wrong in (grid.flip(0), grid[:1], torch.tensor([1.0, 0.5, 0.5]), grid.view(1, -1)):
        with pytest.raises(ValueError, match="falling"):
            samplers.euler(gaussian(path), x, path, wrong, None)
