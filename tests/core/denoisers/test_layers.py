"""Positions, rotations, attention and time embedding against their closed forms."""

import math

import pytest
import torch
from torch import nn

from ldm.core.denoisers import layers
from ldm.core.denoisers.layers import (
    Attention,
    Linear,
    Mlp,
    SwiGLU,
    TimestepEmbedding,
    gelu,
    modulate,
    normalise,
    rotary_angles,
    rotate,
    sincos_positions,
)


@pytest.mark.parametrize(("width", "side"), [(32, 4), (384, 16)])
def test_positions_equal_those_of_diffusers(width: int, side: int) -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    reference = embeddings.get_2d_sincos_pos_embed(width, side, base_size=side, output_type="pt")
    torch.testing.assert_close(sincos_positions(width, (side, side)), reference.float(), rtol=0, atol=1e-6)


def test_positions_tell_the_column_first_and_the_row_second() -> None:
    table = sincos_positions(16, (3, 5)).unflatten(0, (3, 5))
    assert torch.equal(table[0, :, :8], table[2, :, :8])
    assert torch.equal(table[:, 0, 8:], table[:, 4, 8:])
    assert float(table[0, 2, 0]) == pytest.approx(math.sin(2))
    assert len({tuple(row.tolist()) for row in table.flatten(0, 1)}) == 15


def test_rotated_products_depend_on_relative_position_only() -> None:
    torch.manual_seed(0)
    rows, columns, width = 5, 6, 16
    angles = rotary_angles(width, (rows, columns))
    q, k = torch.randn(width).expand(1, 1, 30, -1), torch.randn(width).expand(1, 1, 30, -1)
    rotary = (angles.cos(), angles.sin())
    products = (rotate(q, rotary)[0, 0] @ rotate(k, rotary)[0, 0].T).reshape(rows, columns, rows, columns)
    by_offset: dict[tuple[int, int], list[float]] = {}
    for i in range(rows):
        for j in range(columns):
            for m in range(rows):
                for n in range(columns):
                    by_offset.setdefault((i - m, j - n), []).append(float(products[i, j, m, n]))
    spread = [max(values) - min(values) for values in by_offset.values()]
    assert max(spread) < 1e-4
    means = torch.tensor([values[0] for values in by_offset.values()])
    assert len(by_offset) == 99
    assert means.std() > 0.5
    assert by_offset[0, 0][0] == pytest.approx(float(q[0, 0, 0] @ k[0, 0, 0]), rel=1e-5)


def test_in_bf16_a_product_takes_bias_and_gelu_with_it_and_is_no_less_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    mlp, x = Mlp(64, 256), torch.randn(3, 10, 64)
    for linear in (mlp.up, mlp.down):
        torch.nn.init.normal_(linear.bias)
    exact = mlp(x).detach()
    bf16 = torch.autocast("cpu", torch.bfloat16)
    with bf16:  # Gradients are wanted: as it is written.
        apart, product = mlp(x).detach(), mlp.up(x).detach()
    error = float((apart - exact).norm())
    for frozen in (False, True):
        for linear in (mlp.up, mlp.down) if frozen else ():
            linear.weight.data = linear.weight.data.bfloat16()
        with bf16, torch.no_grad():
            at_once = mlp(x)
            assert at_once.dtype == torch.bfloat16 and torch.equal(mlp.up(x), product)
        assert float((at_once - exact).norm()) < 1.05 * error < 0.02 * float(exact.norm())
    monkeypatch.setattr(layers, "_ONE_KERNEL", False)
    with bf16, torch.no_grad():
        assert torch.equal(mlp(x), apart)


def test_in_fp32_products_are_as_written() -> None:
    torch.manual_seed(0)
    linear, x = Linear(16, 32), torch.randn(5, 16)
    with torch.no_grad():
        torch.testing.assert_close(linear.forward_gelu(x), gelu(x @ linear.weight.T + linear.bias))


def test_attention_with_rotation_does_not_see_where_the_whole_grid_lies() -> None:
    torch.manual_seed(0)
    attention, x, angles = Attention(16, 2, qk_norm=False), torch.randn(1, 12, 16), rotary_angles(8, (3, 4))
    moved = angles + rotary_angles(8, (8, 9))[-1]
    here, there = (attention(x, (a.cos(), a.sin())) for a in (angles, moved))
    torch.testing.assert_close(here, there, rtol=1e-4, atol=1e-5)
    assert (here - attention(x)).abs().max() > 1e-3


def test_rotation_keeps_lengths() -> None:
    x = torch.randn(2, 3, 12, 8)
    angles = rotary_angles(8, (3, 4))
    torch.testing.assert_close(rotate(x, (angles.cos(), angles.sin())).norm(dim=-1), x.norm(dim=-1))


def test_attention_without_rotation_does_not_see_order() -> None:
    torch.manual_seed(0)
    attention, x, order = Attention(16, 2, qk_norm=False), torch.randn(1, 6, 16), torch.randperm(6)
    torch.testing.assert_close(attention(x)[:, order], attention(x[:, order]))


def test_qk_norm_makes_attention_blind_to_the_scale_of_queries_and_keys() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 6, 16)
    for qk_norm, blind in ((True, True), (False, False)):
        attention = Attention(16, 2, qk_norm)
        with torch.no_grad():
            before = attention(x)
            attention.qkv.weight[:32] *= 10
            attention.qkv.bias[:32] *= 10
            after = attention(x)
        assert torch.allclose(before, after, atol=1e-4) is blind


def test_layer_norm_centres_and_rms_norm_does_not() -> None:
    x = torch.randn(4, 7, 64) * 3 + 5
    centred, scaled = normalise(x, rms=False), normalise(x, rms=True)
    torch.testing.assert_close(centred.mean(-1), torch.zeros(4, 7), rtol=0, atol=1e-5)
    torch.testing.assert_close(centred.square().mean(-1), torch.ones(4, 7), rtol=0, atol=1e-4)
    torch.testing.assert_close(scaled.square().mean(-1), torch.ones(4, 7), rtol=0, atol=1e-4)
    assert (scaled.mean(-1) > 0.5).all()


def test_gelu_as_it_is_compiled_is_the_tanh_form(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(-8, 8, 1001, dtype=torch.float64)
    written_out = x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2
    torch.testing.assert_close(gelu(x), written_out)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(gelu(x), written_out)


def test_modulation_is_an_affine_map_per_sample() -> None:
    x, shift, scale = torch.randn(2, 3, 4), torch.randn(2, 1, 4), torch.randn(2, 1, 4)
    torch.testing.assert_close(modulate(x, shift, scale), x * (1 + scale) + shift)


def test_swiglu_gates_with_the_first_half() -> None:
    layer, x = SwiGLU(8, 24), torch.randn(2, 8)
    gate, value = layer.up(x)[:, :16], layer.up(x)[:, 16:]
    torch.testing.assert_close(layer(x), layer.down(gate * gate.sigmoid() * value))


@pytest.mark.parametrize("shift", [0, 1])
def test_time_is_embedded_as_diffusers_embeds_a_thousand_times_it(shift: int) -> None:
    embeddings = pytest.importorskip("diffusers.models.embeddings")
    steps = torch.arange(0, 1000, 37)
    layer, seen = TimestepEmbedding(16, 256, 1000.0, shift), []
    layer.up.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    layer(steps / 1000)
    reference = embeddings.get_timestep_embedding(steps, 256, flip_sin_to_cos=True, downscale_freq_shift=shift)
    torch.testing.assert_close(seen[0], reference, rtol=0, atol=2e-4)
    layer(steps.double() / 1000)
    torch.testing.assert_close(seen[1], reference, rtol=0, atol=2e-4)


def test_rotated_products_tell_rows_from_columns_and_both_from_nothing() -> None:
    """Of one vector at all places of a grid: products with the first differ for a row, a column, and both."""
    angles = rotary_angles(16, (2, 3))
    everywhere = rotate(
        torch.randn(16, generator=torch.Generator().manual_seed(0)).expand(1, 1, 6, 16), (angles.cos(), angles.sin())
    )
    products = (everywhere @ everywhere[:, :, :1].transpose(2, 3)).flatten().tolist()
    assert len({round(product, 4) for product in products}) == 6


def test_queries_and_keys_are_normalised_before_they_are_rotated() -> None:
    """A norm's weights belong to channels: after a rotation they would stretch other directions at every place."""
    torch.manual_seed(0)
    attention = Attention(32, 2, qk_norm=True).double()
    nn.init.uniform_(attention.q_norm.weight, 0.5, 2)  # type: ignore[arg-type]
    nn.init.uniform_(attention.k_norm.weight, 0.5, 2)  # type: ignore[arg-type]
    angles = rotary_angles(16, (2, 3)).double()
    rotary, x = (angles.cos(), angles.sin()), torch.randn(1, 6, 32, dtype=torch.float64)
    q, k, v = (each.view(1, 6, 2, 16).transpose(1, 2) for each in attention.qkv(x).chunk(3, dim=-1))
    q, k = (rotate(norm(each), rotary).double() for norm, each in ((attention.q_norm, q), (attention.k_norm, k)))
    mixed = (q @ k.transpose(2, 3) / 4).softmax(-1) @ v
    torch.testing.assert_close(
        attention(x, rotary), attention.out(mixed.transpose(1, 2).flatten(2)), rtol=1e-5, atol=1e-6
    )
