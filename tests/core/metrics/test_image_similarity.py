"""PSNR and SSIM against closed forms and a plain loop over windows."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm.core.errors import DataError
from ldm.core.metrics.image import gaussian_window, image_similarity, psnr, ssim


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_psnr_of_a_constant_error_is_its_closed_form() -> None:
    reference = torch.zeros(2, 3, 8, 8)
    images = torch.stack([torch.full((3, 8, 8), 0.2), torch.full((3, 8, 8), -0.02)])
    # On [0, 1] the errors are 0.1 and 0.01: 20 and 40 dB.
    torch.testing.assert_close(psnr(images, reference), torch.tensor([20.0, 40.0]).double(), rtol=1e-6, atol=0)


def test_psnr_of_equal_images_is_100_db_and_values_out_of_range_are_clamped() -> None:
    images = draw(1, 3, 8, 8)
    assert psnr(images, images).item() == 100
    assert psnr(torch.full((1, 3, 4, 4), 1.5), torch.ones(1, 3, 4, 4)).item() == 100


def test_window_has_the_weights_of_wang_et_al() -> None:
    window = gaussian_window()
    assert window.sum().item() == pytest.approx(1)
    assert (window[5] / window[4]).item() == pytest.approx(math.exp(1 / (2 * 1.5**2)))
    assert torch.equal(window, window.flip(0))


def test_ssim_of_equal_images_is_one_and_symmetric_otherwise() -> None:
    x, y = draw(2, 3, 16, 20), draw(2, 3, 16, 20, seed=1)
    torch.testing.assert_close(ssim(x, x), torch.ones(2).double())
    torch.testing.assert_close(ssim(x, y), ssim(y, x))
    assert (ssim(x, y) < 0.5).all()


def test_ssim_of_two_constant_images_is_the_luminance_term() -> None:
    x, y = torch.full((1, 3, 12, 12), 0.0), torch.full((1, 3, 12, 12), 0.5)
    expected = (2 * 0.5 * 0.75 + 1e-4) / (0.5**2 + 0.75**2 + 1e-4)
    assert ssim(x, y).item() == pytest.approx(expected, rel=1e-9)


def test_ssim_of_an_inverted_image_is_negative() -> None:
    x = draw(1, 1, 24, 24)
    assert ssim(x, -x).item() < 0


def test_ssim_is_the_plain_loop_over_whole_windows() -> None:
    x, y = draw(1, 2, 13, 14), (draw(1, 2, 13, 14) + 0.3 * draw(1, 2, 13, 14, seed=1)).clamp(-1, 1)
    a, b = ((part[0].double().numpy() + 1) / 2 for part in (x, y))
    line = np.exp(-((np.arange(11) - 5.0) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / np.outer(line, line).sum()
    values = []
    for channel in range(2):
        for top in range(13 - 10):
            for left in range(14 - 10):
                p = a[channel, top : top + 11, left : left + 11]
                q = b[channel, top : top + 11, left : left + 11]
                mean_p, mean_q = (weights * p).sum(), (weights * q).sum()
                var_p, var_q = (weights * (p - mean_p) ** 2).sum(), (weights * (q - mean_q) ** 2).sum()
                covariance = (weights * (p - mean_p) * (q - mean_q)).sum()
                values.append(
                    (2 * mean_p * mean_q + 0.01**2)
                    * (2 * covariance + 0.03**2)
                    / ((mean_p**2 + mean_q**2 + 0.01**2) * (var_p + var_q + 0.03**2))
                )
    assert ssim(x, y).item() == pytest.approx(np.mean(values), rel=1e-9)


def test_each_image_is_judged_alone() -> None:
    x, y = draw(3, 3, 16, 16), draw(3, 3, 16, 16, seed=1)
    for measure in (psnr, ssim):
        alone = torch.cat([measure(x[i : i + 1], y[i : i + 1]) for i in range(3)])
        torch.testing.assert_close(measure(x, y), alone)


def test_images_smaller_than_the_window_are_refused() -> None:
    with pytest.raises(DataError, match="11 pixels"):
        ssim(draw(1, 3, 10, 16), draw(1, 3, 10, 16))


def test_a_perceptual_distance_stands_beside_the_others_under_its_name() -> None:
    x, y = draw(2, 3, 16, 16), draw(2, 3, 16, 16, seed=1)
    numbers = image_similarity(x, y, {"lpips[squeeze]": lambda a, b: (a - b).abs().mean((1, 2, 3), keepdim=True)})
    assert list(numbers) == ["psnr", "ssim", "lpips[squeeze]"]
    torch.testing.assert_close(numbers["lpips[squeeze]"], (x - y).abs().mean((1, 2, 3)).double())
