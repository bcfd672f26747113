"""GroupNorm in bf16 on CPUs: torch's results, by another way."""

import pytest
import torch
import torch.nn.functional as F

from ldm.core.autoencoders.norms import GroupNorm

SHAPES = [(2, 16, 40, 40), (3, 16, 8, 8), (2, 48, 7, 5), (1, 64, 33, 32), (2, 256, 9, 9)]


def inputs(shape: tuple[int, ...]) -> tuple[GroupNorm, torch.Tensor, torch.Tensor]:
    """Return a norm with weights of its own, an input and a gradient, bf16 channels last."""
    draws = torch.Generator().manual_seed(0)
    norm = GroupNorm(8, shape[1], eps=1e-6)
    with torch.no_grad():
        norm.weight.add_(torch.randn(shape[1], generator=draws), alpha=0.3)
        norm.bias.add_(torch.randn(shape[1], generator=draws), alpha=0.3)
    x, gradient = (
        (torch.randn(shape, generator=draws) * 2 + 1).bfloat16().contiguous(memory_format=torch.channels_last)
        for _ in range(2)
    )
    return norm, x, gradient


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("learning", [False, True])
def test_what_comes_out_is_torchs_to_the_bit(shape: tuple[int, ...], learning: bool) -> None:
    norm, x, _ = inputs(shape)
    with torch.set_grad_enabled(learning), torch.autocast("cpu", dtype=torch.bfloat16):
        out = norm(x.requires_grad_(learning))
        assert out.dtype == torch.bfloat16 and out.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(out, F.group_norm(x, 8, norm.weight, norm.bias, 1e-6))


@pytest.mark.parametrize("shape", SHAPES)
def test_gradients_are_those_of_float64_to_the_rounding_of_bf16(shape: tuple[int, ...]) -> None:
    norm, x, gradient = inputs(shape)
    found = torch.autograd.grad(norm(x.requires_grad_()), (x, norm.weight, norm.bias), gradient)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, norm.weight, norm.bias)]
    out = F.group_norm(exact[0], 8, exact[1], exact[2], 1e-6)
    for own, expected in zip(found, torch.autograd.grad(out, exact, gradient.double()), strict=True):
        assert float((own.double() - expected).norm() / expected.norm()) < 4e-3
    assert found[1].dtype == found[2].dtype == torch.float32


LAYOUTS = {"channels last": torch.channels_last, "standard": torch.contiguous_format}


@pytest.mark.parametrize("of_gradient", [*LAYOUTS, "expanded"])
@pytest.mark.parametrize("of_x", [*LAYOUTS, "every other"])
@pytest.mark.parametrize("side", [8, 40])
def test_gradients_do_not_depend_on_how_tensors_lie_in_memory(side: int, of_x: str, of_gradient: str) -> None:
    norm, x, gradient = inputs((2, 16, side, side))
    if of_gradient == "expanded":
        gradient = gradient[:, :1, :1, :1].expand(gradient.shape)
    expected = torch.autograd.grad(norm(x.requires_grad_()), (x, norm.weight, norm.bias), gradient.clone())
    x = x.detach()
    x = x.repeat_interleave(2, 3)[..., ::2] if of_x == "every other" else x.contiguous(memory_format=LAYOUTS[of_x])
    if of_gradient in LAYOUTS:
        gradient = gradient.contiguous(memory_format=LAYOUTS[of_gradient])
    found = torch.autograd.grad(norm(x.requires_grad_()), (x, norm.weight, norm.bias), gradient)
    for own, right in zip(found, expected, strict=True):
        assert float((own - right).float().norm() / right.float().norm()) < 4e-3


def test_a_frozen_norm_passes_the_gradient_on() -> None:
    norm, x, gradient = inputs((2, 16, 8, 8))
    expected = torch.autograd.grad(norm(x.requires_grad_()), x, gradient)[0]
    norm.requires_grad_(False)
    assert torch.equal(torch.autograd.grad(norm(x), x, gradient)[0], expected)


def test_in_float32_it_is_torchs() -> None:
    norm, x, gradient = inputs((2, 16, 8, 8))
    x = x.float().requires_grad_()
    stock = torch.nn.GroupNorm(8, 16, eps=1e-6)
    stock.load_state_dict(norm.state_dict())
    for own, theirs in zip(
        torch.autograd.grad(norm(x), (x, norm.weight), gradient.float()),
        torch.autograd.grad(stock(x), (x, stock.weight), gradient.float()),
        strict=True,
    ):
        assert torch.equal(own, theirs)
