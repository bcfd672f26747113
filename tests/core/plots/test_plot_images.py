"""Plots made of images: the forward process, and one step against many."""

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.schedules import add_noise, schedule
from ldm.core.images.decode import as_tensor, as_uint8
from ldm.core.plots.noising import (
    blurred,
    denoised,
    denoising_picture,
    grid_from,
    iterative_picture,
    noised,
    noising_picture,
    strided,
    walked,
)


def holds(picture: np.ndarray, image: np.ndarray, scale: int) -> bool:
    """Say whether an enlarged image stands anywhere in a picture; its first row is looked for in each of the rows."""
    small = np.repeat(np.repeat(image, scale, axis=0), scale, axis=1)
    height, width, _ = small.shape
    first = small[0].tobytes()
    for y in range(len(picture) - height + 1):
        row, at = picture[y].tobytes(), -1
        while (at := row.find(first, at + 1)) >= 0:
            if at % 3 == 0 and np.array_equal(picture[y : y + height, at // 3 : at // 3 + width], small):
                return True
    return False


def test_noised_samples_are_the_forward_process_at_every_time() -> None:
    path = schedule("cosine")
    x0, eps = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    x_t = noised(x0, eps, path, t)
    assert x_t.dtype == torch.float32 and torch.equal(x_t[0], x0)
    for i, time in enumerate(t):
        torch.testing.assert_close(x_t[i], add_noise(x0, eps, *path.alpha_sigma(time)))


def test_the_picture_of_noising_holds_every_noised_image() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 6, 6, 3), dtype=np.uint8)
    noise = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    schedules = {"linear": schedule("linear"), "straight": schedule("rectified-flow")}
    t = torch.tensor([0.0, 0.5], dtype=torch.float64)
    picture = noising_picture(images, noise, schedules, t)
    for x0, eps in zip(as_tensor(images), noise, strict=True):
        for path in schedules.values():
            for image in as_uint8(noised(x0, eps, path, t)):
                assert holds(picture, image, scale=16)


def test_a_sampler_started_in_the_middle_goes_on_through_its_own_times() -> None:
    whole = times.grid(1000, 50)
    assert torch.equal(grid_from(1.0, whole), whole)
    assert torch.equal(grid_from(0.5, whole), whole[25:])
    between = grid_from(0.51, whole)
    assert float(between[0]) == 0.51 and torch.equal(between[1:], whole[25:])
    assert grid_from(0.001, whole).tolist() == [0.001, 0.0]


def test_one_step_is_the_denoiser_s_estimate_and_iteration_is_ddim_from_the_same_x_t() -> None:
    path = schedule("cosine")
    x0, eps = torch.randn(2, 3, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    cond = torch.tensor([0, 1, 2])

    def denoise(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return 0.5 * x_t + cond.view(-1, 1, 1, 1) * (1 - float(t))

    noisy, one_step, iterative = denoised(denoise, path, x0, eps, cond, 0.6, times.grid(1000, 10))
    at = torch.tensor(0.6, dtype=torch.float64)
    x_t = add_noise(x0, eps, *path.alpha_sigma(at))
    torch.testing.assert_close(noisy, x_t)
    torch.testing.assert_close(one_step, denoise(x_t, at, cond))
    torch.testing.assert_close(iterative, samplers.ddim(denoise, x_t, path, times.grid(1000, 10)[4:], cond))


def test_at_time_zero_the_denoiser_is_not_asked() -> None:
    def never(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        raise AssertionError("asked")

    x0 = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    result = denoised(never, schedule("linear"), x0, torch.ones_like(x0), None, 0.0, times.grid(1000, 10))
    assert torch.equal(result, torch.stack([x0] * 3))


def test_the_picture_of_denoising_holds_each_stage_of_each_sample_at_each_time() -> None:
    g = torch.Generator().manual_seed(0)
    results = [torch.rand(3, 2, 3, 8, 8, generator=g) for _ in range(2)]

    def decode(z: Tensor) -> np.ndarray:
        return as_uint8(z)

    clean = torch.rand(2, 3, 8, 8, generator=g)
    picture = denoising_picture(results, clean, (0.5, 1.0), 10, decode)
    for result in results:
        for stage in result:
            for image in decode(stage):
                assert holds(picture, image, scale=12)


def test_the_blur_beside_a_denoiser_is_the_best_of_those_tried_and_none_where_nothing_is_gained() -> None:
    g = torch.Generator().manual_seed(0)
    smooth = torch.linspace(-0.8, 0.8, 32).expand(2, 3, 32, 32)
    clean, noisy = as_uint8(smooth), as_uint8(smooth + 0.3 * torch.randn(2, 3, 32, 32, generator=g))
    made = blurred(noisy, clean)
    near, far = (np.abs(each.astype(int) - clean).mean() for each in (made, noisy))
    assert near < far / 4
    assert np.array_equal(blurred(clean, clean), clean)


def test_a_stride_of_30_begins_at_990_of_1000_and_ends_at_the_data() -> None:
    whole = strided(1000, 30, 0)
    assert len(whole) == 34 and torch.allclose(whole, torch.arange(990, -1, -30, dtype=torch.float64) / 1000)
    assert float(strided(1000, 30, 10)[0]) == pytest.approx(0.69)
    with pytest.raises(ValueError, match="none is left after 33"):
        strided(1000, 30, 33)


def test_the_path_shows_what_ddim_passes_and_the_picture_all_of_it() -> None:
    path, t = schedule("cosine"), strided(1000, 100, 4)
    x0, eps = torch.rand(2, 2, 3, 8, 8, generator=torch.Generator().manual_seed(0))

    def denoise(x_t: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        return 0.5 * x_t * (1 - float(t))

    times_shown, looks = walked(denoise, path, x0, eps, torch.zeros(2), t, 2)
    assert times_shown == pytest.approx([0.5, 0.3, 0.1]) and len(looks) == 4
    start = add_noise(x0, eps, *path.alpha_sigma(t[0]))
    torch.testing.assert_close(looks[0], torch.stack([start, denoise(start, t[0], torch.zeros(2))]))
    torch.testing.assert_close(looks[-1][0], samplers.ddim(denoise, start, path, t, torch.zeros(2)))
    picture = iterative_picture(times_shown, looks, x0, as_uint8)
    for image in as_uint8(torch.cat([x0, *(part for look in looks for part in look)])):
        assert holds(picture, image, scale=12)
