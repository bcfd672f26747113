"""Adversarial losses, the adaptive weight, the discriminator, and LPIPS."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ldm.core.autoencoders import losses
from ldm.core.autoencoders.discriminator import Discriminator, layers_for
from ldm.core.autoencoders.lpips import HEADS, LPIPS, TRUNK, _unit
from ldm.core.errors import ConfigError, DataError


def test_hinge_losses_in_closed_form() -> None:
    real, fake = torch.tensor([2.0, 0.5]), torch.tensor([-3.0, 0.0])
    assert losses.hinge_discriminator_loss(real, fake).item() == pytest.approx(((0 + 0.5) / 2 + (0 + 1) / 2) / 2)
    assert losses.generator_loss(fake).item() == pytest.approx(1.5)


def test_losses_of_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.linspace(-2, 2, 999).bfloat16()
    for loss in (losses.generator_loss(logits), losses.hinge_discriminator_loss(logits, logits)):
        assert loss.dtype == torch.float32
    expected = losses.hinge_discriminator_loss(logits.double(), logits.double())
    assert losses.hinge_discriminator_loss(logits, logits).item() == pytest.approx(expected.item(), rel=1e-6)


def test_adaptive_weight_is_the_ratio_of_gradient_norms_at_the_last_layer() -> None:
    last_layer = nn.Parameter(torch.tensor([1.0, 2.0]))
    reconstruction = (last_layer * torch.tensor([3.0, 4.0])).sum()  # gradient of norm 5
    adversarial = (last_layer * torch.tensor([0.0, 0.5])).sum()  # gradient of norm 0.5
    weight = losses.adaptive_weight(reconstruction, adversarial, last_layer)
    assert weight.item() == pytest.approx(10, rel=1e-4)
    assert not weight.requires_grad
    (reconstruction + weight * adversarial).backward()  # the graphs are still there


def test_adaptive_weight_is_bounded_where_the_adversary_has_no_gradient() -> None:
    last_layer = nn.Parameter(torch.tensor([1.0]))
    assert losses.adaptive_weight(1e9 * last_layer.sum(), 0 * last_layer.sum(), last_layer).item() == 1e4


@pytest.mark.parametrize(("num_layers", "patch"), [(1, 16), (2, 34), (3, 70)])
def test_a_logit_sees_the_patch_that_is_promised(num_layers: int, patch: int) -> None:
    discriminator = Discriminator(channels=2, num_layers=num_layers)
    # Without normalisation, which lets a logit see the mean of the image.
    for index, layer in enumerate(discriminator.layers):
        if isinstance(layer, nn.GroupNorm):
            discriminator.layers[index] = nn.Identity()
    images = torch.rand(1, 3, 160, 160, requires_grad=True)
    logits = discriminator(images)
    side = logits.shape[-1] // 2
    logits[0, 0, side, side].backward()
    assert images.grad is not None
    seen = images.grad.abs().sum(dim=(0, 1, 2)) > 0
    assert int(seen.sum()) == patch


@pytest.mark.parametrize("image_size", [28, 32, 64, 128])
def test_small_images_have_several_patches(image_size: int) -> None:
    logits = Discriminator(channels=4, num_layers=layers_for(image_size))(torch.zeros(1, 3, image_size, image_size))
    assert logits.shape[-1] >= 8


def test_the_discriminator_keeps_no_state_of_what_it_saw() -> None:
    assert not list(Discriminator(channels=4, num_layers=1).buffers())


@pytest.fixture(scope="module")
def lpips(shared: Path) -> LPIPS:
    return LPIPS(shared / "weights" / "lpips-squeeze")


def _picture(size: int = 32) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(-1, 1, size), torch.linspace(-1, 1, size), indexing="ij")
    return torch.stack([torch.sin(5 * x), torch.cos(4 * y), x * y])[None].clamp(-1, 1)


def test_lpips_of_an_image_with_itself_is_zero_and_it_is_symmetric(lpips: LPIPS) -> None:
    a, b = _picture(), _picture().flip(-1)
    assert lpips(a, a).item() == 0
    assert lpips(a, b).item() > 0.01
    torch.testing.assert_close(lpips(a, b), lpips(b, a))


def test_lpips_grows_with_noise(lpips: LPIPS) -> None:
    image, noise = _picture(), torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    distances = [lpips(image, image + scale * noise).item() for scale in (0.02, 0.05, 0.1, 0.2, 0.4)]
    assert distances == sorted(distances)


def test_lpips_is_per_sample(lpips: LPIPS) -> None:
    a, b = torch.cat([_picture(), _picture().flip(-2)]), torch.cat([_picture(), -_picture()])
    both = lpips(a, b)
    assert both.shape == (2,)
    torch.testing.assert_close(both[1:], lpips(a[1:], b[1:]))


def test_lpips_is_the_published_formula_written_out(lpips: LPIPS, shared: Path) -> None:
    """Zhang et al. 2018, eq. 1, from the files, with features of plain functional calls in float64."""
    folder = shared / "weights" / "lpips-squeeze"
    trunk = torch.load(folder / TRUNK, weights_only=True, map_location="cpu")
    heads = torch.load(folder / HEADS, weights_only=True, map_location="cpu")
    functional = nn.functional

    def conv(h: torch.Tensor, name: str, stride: int = 1, padding: int = 0) -> torch.Tensor:
        weight, bias = trunk[f"{name}.weight"].double(), trunk[f"{name}.bias"].double()
        return functional.conv2d(h, weight, bias, stride, padding).relu()

    def features(images: torch.Tensor) -> list[torch.Tensor]:
        shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
        h = conv((images.double() - shift.double()[:, None, None]) / scale.double()[:, None, None], "0", stride=2)
        found = [h]
        for index in range(2, 13):
            if index in (2, 5, 8):
                h = functional.max_pool2d(h, 3, 2, ceil_mode=True)
                continue
            squeezed = conv(h, f"{index}.squeeze")
            h = torch.cat(
                [conv(squeezed, f"{index}.expand1x1"), conv(squeezed, f"{index}.expand3x3", padding=1)], dim=1
            )
            if index in (4, 7, 9, 10, 11, 12):  # the ends of the reference's slices [0,2) [2,5) [5,8) [8,10) …
                found.append(h)
        return found

    a, b = _picture(35), _picture(35).flip(-1) * 0.7
    expected = 0.0
    for level, (of_a, of_b) in enumerate(zip(features(a), features(b), strict=True)):
        unit_a, unit_b = (f / f.norm(dim=1, keepdim=True) for f in (of_a, of_b))
        weights = heads[f"lin{level}.model.1.weight"].double()
        expected += (weights * (unit_a - unit_b) ** 2).sum(dim=1).mean().item()
    assert lpips(a, b).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("sides", "resized"), [((16, 16), (48, 48)), ((40, 60), (48, 72)), ((96, 72), (64, 48))])
def test_lpips_of_resized_images(shared: Path, lpips: LPIPS, sides: tuple[int, int], resized: tuple[int, int]) -> None:
    """The shorter side, whichever it is, becomes 48 pixels by the filter of Pillow, growing or shrinking."""
    a, b = (torch.nn.functional.interpolate(image, sides) for image in (_picture(96), _picture(96).flip(-1) * 0.7))

    def as_pillow(image: torch.Tensor) -> torch.Tensor:
        size = (resized[1], resized[0])
        bands = [Image.fromarray(band.numpy()).resize(size, Image.Resampling.BILINEAR) for band in image[0]]
        return torch.from_numpy(np.stack(bands))[None]

    at_48 = LPIPS(shared / "weights" / "lpips-squeeze", size=48)
    assert at_48(a, b).item() == pytest.approx(lpips(as_pillow(a), as_pillow(b)).item(), rel=1e-4)


def test_lpips_of_images_of_that_size_is_the_same(shared: Path, lpips: LPIPS) -> None:
    a, b = _picture(48), _picture(48).flip(-1)
    assert torch.equal(LPIPS(shared / "weights" / "lpips-squeeze", size=48)(a, b), lpips(a, b))


def test_lpips_has_a_finite_gradient_where_features_vanish(lpips: LPIPS) -> None:
    image = torch.zeros(1, 3, 17, 17, requires_grad=True)
    lpips(image, _picture(17)).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all() and image.grad.abs().max() > 0
    features = torch.zeros(1, 4, 1, 1, requires_grad=True)
    _unit(features.relu()).sum().backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()


def test_lpips_has_nothing_to_train(lpips: LPIPS) -> None:
    assert not any(parameter.requires_grad for parameter in lpips.parameters())


def test_lpips_refuses_images_that_are_too_small(lpips: LPIPS) -> None:
    with pytest.raises(ConfigError, match="at least 17 pixels, not 16"):
        lpips(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))


def test_missing_and_foreign_lpips_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"squeeze\.backbone\.pth does not exist"):
        LPIPS(tmp_path)
    (tmp_path / TRUNK).write_bytes(b"\x80\x04another pickle")
    with pytest.raises(DataError, match=r"squeeze\.backbone\.pth is damaged or another file"):
        LPIPS(tmp_path)
