"""Editing is exact at its ends: strengths 0 and 1, masks of all and nothing; and RePaint's walk counts as published."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import editing, samplers, times
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.denoisers import Denoiser
from ldm.core.diffusion.schedules import Schedule, add_noise, schedule
from tests.support.ideal_denoisers import gaussian, mixture

EVERY_SAMPLER = pytest.mark.parametrize("name", samplers.SAMPLERS)
EVERY_PATH = pytest.mark.parametrize("kind", ["linear", "cosine", "rectified-flow"])
SHAPE = (3, 2, 4, 4)


def draws(seed: int) -> Callable[[int], Tensor]:
    return lambda step: torch.randn(SHAPE, generator=torch.Generator().manual_seed(1000 * seed + step))


def image() -> Tensor:
    return torch.linspace(-1, 1, 96).view(SHAPE)


def sampled(name: str, denoise: Denoiser, path: Schedule, x: Tensor, visited: Tensor) -> Tensor:
    return samplers.walk(samplers.SAMPLERS[name], denoise, x, path, visited, {}, noise=draws(1))


@EVERY_SAMPLER
@EVERY_PATH
def test_at_strength_one_an_image_leaves_no_trace_and_at_zero_it_is_the_result(name: str, kind: str) -> None:
    path, grid, noise = schedule(kind), times.grid(1000, 8), draws(0)(0)
    plain = samplers.SAMPLERS[name](mixture(path), noise, path, grid, {}, noise=draws(1))
    start, visited = editing.from_image(image(), noise, path, grid, 1.0)
    assert torch.equal(sampled(name, mixture(path), path, start, visited), plain)
    start, visited = editing.from_image(image(), noise, path, grid, 0.0)
    assert torch.equal(sampled(name, mixture(path), path, start, visited), image())


@EVERY_PATH
def test_an_image_is_noised_to_the_time_of_the_grid_nearest_to_the_strength(kind: str) -> None:
    path, grid, noise = schedule(kind), times.grid(1000, 10), draws(0)(0)
    start, visited = editing.from_image(image(), noise, path, grid, 0.53)
    assert visited.tolist() == pytest.approx([0.5, 0.4, 0.3, 0.2, 0.1, 0.0])
    torch.testing.assert_close(start, add_noise(image(), noise, *path.alpha_sigma(torch.tensor(0.5).double())))


def test_more_strength_moves_further_from_the_image() -> None:
    path, grid, noise = schedule("cosine"), times.grid(1000, 20), draws(0)(0)
    apart = []
    for strength in (0.0, 0.3, 0.6, 1.0):
        start, visited = editing.from_image(image(), noise, path, grid, strength)
        made = sampled("ddim", gaussian(path, mean=2.0, std=0.3), path, start, visited)
        apart.append(float((made - image()).square().mean()))
    assert apart == sorted(apart) and apart[0] == 0 and apart[1] > 0


@EVERY_SAMPLER
@EVERY_PATH
def test_of_a_mask_of_all_the_plain_sample_comes_and_of_a_mask_of_nothing_the_image(name: str, kind: str) -> None:
    path, grid, noise = schedule(kind), times.grid(1000, 6), draws(0)(0)
    plain = samplers.SAMPLERS[name](mixture(path), noise, path, grid, {}, noise=draws(1))
    for new, expected in ((True, plain), (False, image())):
        mask = torch.full((1, 1, 4, 4), new)
        painted = editing.inpainting(mixture(path), image(), mask, path, draws(2))
        assert torch.equal(sampled(name, painted, path, noise, grid), expected)


@EVERY_SAMPLER
def test_what_is_known_is_exact_at_the_end_and_the_rest_is_made(name: str) -> None:
    path, grid = schedule("linear"), editing.resampling(times.grid(1000, 6), jump=2, repeats=2)
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    mask[..., 1:3, :] = True
    painted = editing.inpainting(mixture(path), image(), mask, path, draws(2))
    made = sampled(name, painted, path, draws(0)(0), grid)
    new = mask.expand(SHAPE)
    assert torch.equal(made[~new], image()[~new]) and (made - image())[new].abs().min() > 0


def test_a_denoiser_sees_the_known_part_at_the_noise_level_of_its_input() -> None:
    path, seen = schedule("cosine"), []
    mask = torch.zeros(1, 1, 4, 4, dtype=torch.bool)

    def watching(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        seen.append((x_t, t))
        return x_t

    painted = editing.inpainting(watching, image(), mask, path, draws(2))
    sampled("ddim", painted, path, draws(0)(0), times.grid(1000, 3))
    for call, (x_t, t) in enumerate(seen):
        torch.testing.assert_close(x_t, add_noise(image(), draws(2)(call), *path.alpha_sigma(t)))


@pytest.mark.parametrize(
    ("steps", "jump", "repeats", "calls", "rises"),
    [(250, 10, 10, 2410, 2160), (50, 10, 10, 410, 360), (50, 5, 3, 140, 90), (20, 5, 5, 80, 60), (20, 5, 1, 20, 0)],
)
def test_repaints_walk_has_the_published_numbers_of_calls(
    steps: int, jump: int, repeats: int, calls: int, rises: int
) -> None:
    walked = editing.resampling(times.grid(1000, steps), jump, repeats)
    falls = walked.diff() < 0
    assert int(falls.sum()) == calls and int((~falls).sum()) == rises
    assert walked[-1] == 0 and (walked[:-1] > 0).all(), "never back from the clean image"


def test_a_walk_calls_the_denoiser_at_every_time_that_it_leaves_downwards() -> None:
    path, asked = schedule("linear"), []
    walked = editing.resampling(times.grid(1000, 6), jump=2, repeats=2)

    def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        asked.append(float(t))
        return mixture(path)(x_t, t, cond)

    steps: list[int] = []
    samplers.walk(
        samplers.ddim,
        denoise,
        draws(0)(0),
        path,
        walked,
        {},
        noise=draws(1),
        on_step=lambda step, t, x, x0: steps.append(step),
    )
    falls = [place for place in range(len(walked) - 1) if walked[place + 1] < walked[place]]
    assert asked == [float(walked[place]) for place in falls] and steps == falls


def test_a_walk_up_and_down_keeps_the_distribution() -> None:
    """Of normal data the exact sampler's state at any time is normal; a jump back must not change its variance."""
    path, std = schedule("cosine"), 0.5
    many = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(200_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    alpha, sigma = path.alpha_sigma(torch.tensor([0.3, 0.6], dtype=torch.float64))
    spread = (alpha**2 * std**2 + sigma**2).sqrt()
    visited = torch.tensor([0.3, 0.6], dtype=torch.float64)
    raised = samplers.walk(
        samplers.ddim, gaussian(path, 0, std), spread[0] * many, path, visited, {}, noise=lambda i: noise
    )
    assert float(raised.std()) == pytest.approx(float(spread[1]), rel=0.01)


def test_a_latent_is_new_where_any_of_its_pixels_is() -> None:
    new = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    new[..., 20:44, 20:44] = True
    latents = editing.latent_mask(new, 8)
    assert latents.shape == (1, 1, 8, 8) and int(latents.sum()) * 64 == 1024
    assert latents[..., 2:6, 2:6].all()


def test_settings_out_of_range_are_refused() -> None:
    path, grid = schedule("linear"), times.grid(1000, 4)
    with pytest.raises(ValueError, match=r"strength is 1\.5"):
        editing.from_image(image(), image(), path, grid, 1.5)
    with pytest.raises(ValueError, match="jump is 0"):
        editing.resampling(grid, 0, 2)


def round_trip(steps: int, refine: int, strength: float = 1.0) -> tuple[Tensor, Tensor]:
    """Invert normal data and draw them again by DDIM: what they were noised to, and how far they come back."""
    path, grid = schedule("linear"), times.grid(1000, steps)
    denoise = gaussian(path, mean=0.5, std=0.7)
    x0 = 0.5 + 0.7 * torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    start, visited = editing.inverted(denoise, x0, path, grid, strength, {}, refine)
    return start, (samplers.walk(samplers.ddim, denoise, start, path, visited, {}, noise=draws(1)) - x0).abs().max()


def test_inversion_is_undone_by_ddim_to_first_order_in_the_steps() -> None:
    errors = [float(round_trip(steps, refine=0)[1]) for steps in (25, 50, 100, 200)]
    assert all(1.6 < before / after < 2.5 for before, after in itertools.pairwise(errors)), errors


def test_corrections_bring_inversion_closer() -> None:
    errors = [float(round_trip(50, refine)[1]) for refine in (0, 1, 4)]
    assert errors[1] < errors[0] / 2 and errors[2] < errors[1]


def test_data_are_inverted_to_the_noise_that_they_come_from() -> None:
    """Normal data flow to standard normal noise, which keeps the order of numbers."""
    start, _ = round_trip(200, refine=1)
    x0 = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(start, x0, atol=0.08, rtol=0)


def test_inversion_to_no_noise_is_the_image_itself() -> None:
    start, error = round_trip(10, refine=1, strength=0.0)
    assert float(error) == 0 and start.shape == (64, 1)
