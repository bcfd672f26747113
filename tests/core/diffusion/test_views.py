"""Views are orthogonal and undone; identity views and equal conditions are the plain denoiser; blurs add up."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor

from ldm.core.diffusion import views
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.names import ViewName
from ldm.core.diffusion.schedules import schedule

SHAPE = (2, 3, 8, 8)
EVERY_VIEW = pytest.mark.parametrize("name", views.VIEWS)


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def denoise(x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
    """Any map of x_t and the condition, not the same everywhere."""
    return torch.tanh(x_t * cond["labels"].view(-1, 1, 1, 1)) + torch.linspace(0, 1, 64).view(8, 8)


def labels(value: float) -> Cond:
    return {"labels": torch.full((2,), value, dtype=torch.float64)}


def test_the_names_of_views_are_those_of_the_settings() -> None:
    assert get_args(ViewName) == tuple(views.VIEWS)


@EVERY_VIEW
def test_a_view_is_linear_orthogonal_and_undone(name: str) -> None:
    view, one = views.VIEWS[name], noise(1, (1, 1, 8, 8))
    columns = [view.apply(each.view(1, 1, 8, 8)).flatten() for each in torch.eye(64, dtype=torch.float64)]
    matrix = torch.stack(columns, dim=1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(64, dtype=torch.float64))
    torch.testing.assert_close(matrix @ one.flatten(), view.apply(one).flatten())
    centre = torch.tensor([0.3, -0.1, 0.0], dtype=torch.float64).view(3, 1, 1)
    torch.testing.assert_close(view.back(view.of(noise(), centre), centre), noise())


def test_views_do_what_they_are_called() -> None:
    image = torch.arange(64.0).view(1, 1, 8, 8)
    assert torch.equal(views.VIEWS["flip"].apply(image)[..., 0, :], image[..., -1, :])
    assert torch.equal(views.VIEWS["rotate90"].apply(image)[..., 0], image[..., 0, :].flip(-1))
    assert torch.equal(views.VIEWS["transpose"].apply(image)[..., 0], image[..., 0, :])
    centre = torch.full((1, 1, 1), 10.0)
    assert torch.equal(views.VIEWS["negate"].of(image, centre), 20 - image), "about the middle"
    pieces = views.VIEWS["jigsaw"].apply(image).unfold(2, 2, 2).unfold(3, 2, 2).reshape(16, 4)
    assert {tuple(p) for p in pieces.tolist()} == {
        tuple(p) for p in image.unfold(2, 2, 2).unfold(3, 2, 2).reshape(16, 4).tolist()
    }


def test_an_anagram_by_the_identity_of_one_condition_is_the_plain_denoiser() -> None:
    path, t = schedule("cosine"), torch.tensor(0.5, dtype=torch.float64)
    seen = views.anagram(denoise, views.VIEWS["none"], labels(2), path, torch.zeros(1))
    assert torch.equal(seen(noise(), t, labels(2)), denoise(noise(), t, labels(2)))


@EVERY_VIEW
def test_an_anagram_is_the_mean_of_both_estimates(name: str) -> None:
    path, t, view = schedule("cosine"), torch.tensor(0.5, dtype=torch.float64), views.VIEWS[name]
    centre = torch.tensor([0.3, -0.1, 0.0], dtype=torch.float64).view(3, 1, 1)
    alpha, _ = path.alpha_sigma(t)
    there = view.back(denoise(view.of(noise(), alpha * centre), t, labels(3)), centre)
    seen = views.anagram(denoise, view, labels(3), path, centre)(noise(), t, labels(2))
    torch.testing.assert_close(seen, (denoise(noise(), t, labels(2)) + there) / 2)


@EVERY_VIEW
def test_through_decoded_pixels_that_are_the_latents_the_anagram_is_the_same(name: str) -> None:
    """With an exact codec both ways agree, where both denoisers see the same noise under the first estimate."""
    path, t, view = schedule("cosine"), torch.tensor(0.5, dtype=torch.float64), views.VIEWS[name]
    in_latents = views.anagram(denoise, view, labels(3), path, torch.zeros(1))
    decoded = views.anagram_of_decoded(denoise, view, labels(3), path, view.apply, view.undo)
    torch.testing.assert_close(decoded(noise(), t, labels(2)), in_latents(noise(), t, labels(2)))


def test_a_hybrid_of_one_condition_is_the_plain_denoiser_and_of_two_has_the_bands_of_each() -> None:
    t = torch.tensor(0.5, dtype=torch.float64)
    one = views.hybrid(denoise, labels(2), 1.0)(noise(), t, labels(2))
    assert torch.equal(one, denoise(noise(), t, labels(2)))
    near, far = denoise(noise(), t, labels(2)), denoise(noise(), t, labels(5))
    joined = views.hybrid(denoise, labels(5), 1.0)(noise(), t, labels(2))
    torch.testing.assert_close(joined, views.blur(far, 1.0) + near - views.blur(near, 1.0))


def test_a_blur_has_the_taps_of_a_gaussian_and_keeps_constants() -> None:
    impulse = torch.zeros(1, 1, 64, 64, dtype=torch.float64)
    impulse[..., 32, 32] = 1
    taps = views.blur(impulse, 2.0)
    assert float(taps[..., 32, 32]) == pytest.approx(0.19947114020071635**2, rel=1e-6)
    assert float(taps[..., 32, 33] / taps[..., 32, 32]) == pytest.approx(0.17603266338 / 0.19947114020, rel=1e-6)
    flat = torch.full((1, 2, 8, 8), 0.7, dtype=torch.float64)
    torch.testing.assert_close(views.blur(flat, 30.0), flat), "a kernel wider than the map"


def test_a_blur_leaves_white_noise_the_published_deviation() -> None:
    """1 / (2 sigma √π) of the low band, away from the edges; the high band has the rest."""
    white = noise(0, (4, 1, 256, 256))
    low = views.blur(white, 2.0)
    inner = (..., slice(20, -20), slice(20, -20))
    assert float(low[inner].std()) == pytest.approx(1 / (4 * math.sqrt(math.pi)), rel=0.03)
    assert float((white - low)[inner].std()) == pytest.approx(0.96969938, rel=0.01)


def test_the_way_between_two_conditions_and_two_noises_is_exact_at_its_ends() -> None:
    a, b, t = noise(1).float(), noise(2).float(), torch.tensor(0.5, dtype=torch.float64)
    ends = torch.tensor([0.0, 1.0])
    assert torch.equal(views.slerp(a, b, ends)[0], a[0])
    torch.testing.assert_close(views.slerp(a, b, ends)[1], b[1])
    halfway = views.slerp(a, b, torch.tensor([0.5, 0.5])).flatten(1).norm(dim=1)
    torch.testing.assert_close(halfway, (a.flatten(1).norm(dim=1) + b.flatten(1).norm(dim=1)) / 2, rtol=0.05, atol=0)
    torch.testing.assert_close(views.slerp(a, a, torch.tensor([0.3, 0.9])), a)
    mixed = views.between(denoise, labels(5), ends.double().view(-1, 1, 1, 1))(noise(), t, labels(2))
    assert torch.equal(mixed[0], denoise(noise(), t, labels(2))[0])
    assert torch.equal(mixed[1], denoise(noise(), t, labels(5))[1])
