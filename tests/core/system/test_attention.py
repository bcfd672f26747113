"""Attention is the same function, whichever way it is computed."""

import pytest
import torch
import torch.nn.functional as F

from ldm.core.system import attention
from ldm.core.system.attention import attend


def test_attention_is_softmax_of_scaled_products() -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 8).unbind(0)
    expected = F.softmax(q @ k.mT / 8**0.5, dim=-1) @ v
    torch.testing.assert_close(attend(q, k, v), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("at_once", [1 << 21, 1])
@pytest.mark.parametrize("shape", [(4, 1, 1, 6), (1, 1, 1, 6), (6, 6)])
def test_masked_keys_change_nothing(
    dtype: torch.dtype, at_once: int, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "_CACHED_WEIGHTS", at_once)
    q, k, v = torch.randn(3, 4, 3, 6, 8).to(dtype).unbind(0)
    seen = torch.tensor([True, False, True, True, False, False])
    out = attend(q.requires_grad_(), k, v, mask=seen.expand(shape), scale=0.7)
    alone = F.softmax(q.float() @ k[:, :, seen].float().mT * 0.7, dim=-1) @ v[:, :, seen].float()
    torch.testing.assert_close(out.float(), alone, rtol=0, atol=1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize("trained", [True, False])
def test_attention_written_out_for_bf16_agrees_with_the_fused_one(trained: bool) -> None:
    q, k, v = torch.randn(3, 2, 3, 16, 8).bfloat16().unbind(0)
    with torch.set_grad_enabled(trained):
        written_out = attend(q.requires_grad_(trained), k, v)
    assert "Scaled" not in type(written_out.grad_fn).__name__
    torch.testing.assert_close(written_out, F.scaled_dot_product_attention(q, k, v), rtol=0.05, atol=0.02)


def test_attention_over_many_tokens_keeps_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "_MOST_WEIGHTS", 2 * 3 * 16 * 16 - 1)
    q, k, v = torch.randn(3, 2, 3, 16, 8).bfloat16().unbind(0)
    assert "Scaled" in type(attend(q.requires_grad_(), k, v).grad_fn).__name__


@pytest.mark.parametrize("trained", [True, False])
def test_attention_of_a_few_samples_at_a_time_is_that_of_all(trained: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = torch.randn(3, 6, 2, 16, 8).bfloat16().unbind(0)
    whole = attend(*(each.requires_grad_(trained) for each in (q, k, v)))
    monkeypatch.setattr(attention, "_CACHED_WEIGHTS", 4 * 2 * 16 * 16)  # three and three
    parts = attend(q, k, v)
    assert torch.equal(whole, parts)
    if trained:
        of_whole, of_parts = (torch.autograd.grad(out.sum(), (q, k, v), retain_graph=True) for out in (whole, parts))
        assert all(torch.equal(a, b) for a, b in zip(of_whole, of_parts, strict=True))
