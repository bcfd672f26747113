"""Similarity of two images: by pixel (PSNR), and by window (SSIM).

Images are (B, C, H, W) in [-1, 1]; every function gives one number per image.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import DataError

WINDOW = 11
SIGMA = 1.5
_EQUAL_DB = 100.0

PerceptualDistance = Callable[[Tensor, Tensor], Tensor]


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, float64 (B,): −10 log₁₀ of the mean squared error on [0, 1].

    Values are clamped to [-1, 1] first. Equal images, whose ratio is infinite, get 100 dB, out of reach for others.
    """
    x, y = _unit(images, references)
    return (-10 * (x - y).square().mean((1, 2, 3)).log10()).clamp(max=_EQUAL_DB)


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), float64 (B,), 1 for equal images.

    Gaussian window of 11 pixels and σ = 1.5, K₁ = 0.01, K₂ = 0.03, population variances, windows that lie wholly
    inside the image, mean over channels. Raises DataError for images smaller than the window.
    """
    x, y = _unit(images, references)
    if min(x.shape[-2:]) < WINDOW:
        raise DataError(f"SSIM needs images of {WINDOW} pixels, not {tuple(x.shape[-2:])}", "use larger images")
    c1, c2 = 0.01**2, 0.03**2
    mean_x, mean_y = _blur(x), _blur(y)
    var_x = _blur(x * x) - mean_x**2
    var_y = _blur(y * y) - mean_y**2
    covariance = _blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast_structure = (2 * covariance + c2) / (var_x + var_y + c2)
    return (luminance * contrast_structure).mean((1, 2, 3))


def image_similarity(
    images: Tensor, references: Tensor, perceptual: Mapping[str, PerceptualDistance] | None = None
) -> dict[str, Tensor]:
    """Return PSNR, SSIM and any perceptual distances of a batch, float64 (B,) each, by name.

    perceptual: functions (images, references) → (B,), by the name their numbers get, such as "lpips[squeeze]".
    """
    numbers = {"psnr": psnr(images, references), "ssim": ssim(images, references)}
    with torch.no_grad():
        for name, distance in (perceptual or {}).items():
            numbers[name] = distance(images, references).double().reshape(len(images))
    return numbers


def gaussian_window() -> Tensor:
    """Return the window along one axis, float64 (11,), of sum 1."""
    offsets = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    window = (-(offsets**2) / (2 * SIGMA**2)).exp()
    return window / window.sum()


def _blur(x: Tensor) -> Tensor:
    """Weigh every whole window: (B, C, H, W) → (B, C, H − 10, W − 10), one axis after the other."""
    b, c, height, width = x.shape
    window = gaussian_window().to(x.device)
    x = F.conv2d(x.reshape(b * c, 1, height, width), window.view(1, 1, WINDOW, 1))
    x = F.conv2d(x, window.view(1, 1, 1, WINDOW))
    return x.reshape(b, c, *x.shape[-2:])


def _unit(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    assert images.ndim == 4 and images.shape == references.shape, f"{images.shape} against {references.shape}"
    x, y = ((part.detach().double().clamp(-1, 1) + 1) / 2 for part in (images, references))
    return x, y
