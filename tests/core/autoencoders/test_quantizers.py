"""The codebook: nearest codes, the loss's gradients, EMAs, restarts."""

import math

import pytest
import torch
from torch import Tensor

from ldm.core.autoencoders.parts_config import CodebookConfig
from ldm.core.autoencoders.quantizers import (
    Assignment,
    Quantizer,
    nearest_code,
    perplexity,
    usage,
)


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _quantizer(codes: Tensor, **settings: object) -> Quantizer:
    """A quantiser with given codes (K, D), each with an even share."""
    quantizer = Quantizer(CodebookConfig(codebook_size=len(codes), latent_channels=codes.shape[1], **settings))  # type: ignore[arg-type]
    with torch.no_grad():
        quantizer.codes.copy_(codes)
        if quantizer.config.codebook == "ema":
            quantizer.sums.copy_(codes / len(codes))
    return quantizer


def _brute_force(vectors: Tensor, codes: Tensor) -> Tensor:
    return torch.cdist(vectors.double(), codes.double()).argmin(dim=1)


@pytest.mark.parametrize("num_vectors", [1, 255, 256, 257, 1000])
def test_nearest_code_is_the_argmin_of_all_distances_in_float64(num_vectors: int) -> None:
    vectors, codes = torch.randn(num_vectors, 6, generator=_generator(1)), torch.randn(97, 6, generator=_generator(2))
    assert torch.equal(nearest_code(vectors, codes), _brute_force(vectors, codes))


def test_nearest_code_keeps_its_digits_far_from_the_origin() -> None:
    vectors, codes = torch.randn(500, 4, generator=_generator(1)), torch.randn(64, 4, generator=_generator(2))
    assert torch.equal(nearest_code(vectors + 1000, codes + 1000), _brute_force(vectors + 1000, codes + 1000))


def test_of_equally_near_codes_the_first_is_taken() -> None:
    codes = torch.tensor([[5.0, 5.0], [1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    assert nearest_code(torch.tensor([[0.0, 3.0], [1.0, 0.0]]), codes).tolist() == [1, 1]


def test_nearest_code_is_the_same_under_bf16_autocast() -> None:
    vectors, codes = torch.randn(2000, 8, generator=_generator(1)), torch.randn(512, 8, generator=_generator(2))
    with torch.autocast("cpu", torch.bfloat16):
        found = nearest_code(vectors, codes)
    assert torch.equal(found, _brute_force(vectors, codes))


def test_nearest_code_leaves_the_matmul_precision_as_it_was() -> None:
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        nearest_code(torch.zeros(1, 2), torch.zeros(2, 2))
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)


def test_output_is_codes_and_indices_point_at_them() -> None:
    quantizer = _quantizer(torch.randn(16, 3, generator=_generator(1)))
    latents = torch.randn(2, 3, 4, 5, generator=_generator(2))
    result = quantizer(latents)
    torch.testing.assert_close(result.latents, quantizer.codes[result.indices].movedim(-1, 1), rtol=0, atol=1e-6)
    assert torch.equal(quantizer.lookup(latents), quantizer.codes[result.indices].movedim(-1, 1))
    assert result.counts.sum() == 2 * 4 * 5


def test_the_gradient_passes_straight_through() -> None:
    quantizer = _quantizer(torch.randn(16, 3, generator=_generator(1)))
    latents = torch.randn(2, 3, 4, 4, generator=_generator(2)).requires_grad_()
    upstream = torch.randn(2, 3, 4, 4, generator=_generator(3))
    quantizer(latents).latents.backward(upstream)
    assert latents.grad is not None
    assert torch.equal(latents.grad, upstream)


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_beta_is_on_the_encoder_term(codebook: str) -> None:
    """d/dz of beta mean((z - sg[e])^2) is 2 beta (z - e)/n; the other term has no gradient in z."""
    beta = 0.25
    quantizer = _quantizer(torch.randn(16, 3, generator=_generator(1)), commitment=beta, codebook=codebook)
    latents = torch.randn(2, 3, 4, 4, generator=_generator(2)).requires_grad_()
    result = quantizer(latents)
    result.loss.backward()
    chosen = quantizer.codes[result.indices].movedim(-1, 1).detach()
    assert latents.grad is not None
    torch.testing.assert_close(latents.grad, 2 * beta * (latents.detach() - chosen) / latents.numel())


def test_codes_trained_by_gradient_have_the_whole_codebook_term() -> None:
    """d/de_k of mean((sg[z] - e)^2) is 2 sum of (e_k - z) over its vectors / n, whatever beta is."""
    quantizer = _quantizer(torch.randn(4, 2, generator=_generator(1)), commitment=100.0, codebook="gradient")
    latents = torch.randn(3, 2, 4, 4, generator=_generator(2))
    result = quantizer(latents)
    result.loss.backward()
    vectors, indices = latents.movedim(1, -1).reshape(-1, 2), result.indices.flatten()
    rows = [2 * (quantizer.codes[k] - vectors[indices == k]).sum(dim=0) / latents.numel() for k in range(4)]
    assert quantizer.codes.grad is not None
    torch.testing.assert_close(quantizer.codes.grad, torch.stack(rows).detach())


def test_loss_is_the_formula() -> None:
    quantizer = _quantizer(torch.tensor([[0.0], [10.0]]), commitment=0.25, codebook="gradient")
    loss = quantizer(torch.tensor([1.0, 7.0]).view(2, 1, 1, 1)).loss
    assert loss.item() == pytest.approx((1 + 0.25) * (1.0**2 + 3.0**2) / 2)


def test_forward_changes_no_state() -> None:
    quantizer = _quantizer(torch.randn(8, 2, generator=_generator(1))).train()
    before = {name: tensor.clone() for name, tensor in quantizer.state_dict().items()}
    quantizer(torch.randn(2, 2, 4, 4, generator=_generator(2)))
    assert all(torch.equal(before[name], tensor) for name, tensor in quantizer.state_dict().items())


def test_update_is_the_ratio_of_two_moving_averages() -> None:
    codes = torch.tensor([[0.0, 0.0], [4.0, 4.0]])
    quantizer = _quantizer(codes, ema_decay=0.9, dead_code_threshold=0.0)
    vectors = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [5.0, 3.0]])
    quantizer.update([Assignment(vectors, torch.tensor([0, 0, 0, 1]))], _generator())
    share = torch.tensor([0.9 / 2 + 0.1 * 3 / 4, 0.9 / 2 + 0.1 * 1 / 4])
    first = (0.9 * codes[0] / 2 + 0.1 * torch.tensor([2.0, 2.0]) / 4) / share[0]
    second = (0.9 * codes[1] / 2 + 0.1 * torch.tensor([5.0, 3.0]) / 4) / share[1]
    torch.testing.assert_close(quantizer.shares, share)
    torch.testing.assert_close(quantizer.codes, torch.stack([first, second]))


def test_updates_converge_to_the_mean_of_the_assigned_vectors() -> None:
    quantizer = _quantizer(torch.tensor([[-1.0], [1.0]]), ema_decay=0.5)
    vectors = torch.tensor([[-3.0], [-5.0], [2.0]])
    for _ in range(60):
        quantizer.update([Assignment(vectors, nearest_code(vectors, quantizer.codes))], _generator())
    torch.testing.assert_close(quantizer.codes, torch.tensor([[-4.0], [2.0]]))


def test_one_update_of_two_halves_is_the_update_of_the_whole() -> None:
    codes, vectors = torch.randn(8, 3, generator=_generator(1)), torch.randn(40, 3, generator=_generator(2))
    indices = nearest_code(vectors, codes)
    whole, halves = _quantizer(codes), _quantizer(codes)
    whole.update([Assignment(vectors, indices)], _generator())
    halves.update([Assignment(vectors[:20], indices[:20]), Assignment(vectors[20:], indices[20:])], _generator())
    assert torch.equal(whole.codes, halves.codes)


def test_a_dead_code_is_restarted_from_the_batch_and_a_used_one_is_not() -> None:
    codes = torch.tensor([[0.0, 0.0], [100.0, 100.0], [1.0, 1.0]])
    quantizer = _quantizer(codes, ema_decay=0.5, dead_code_threshold=0.3)
    vectors = torch.tensor([[0.0, 0.2], [1.0, 1.2], [0.1, 0.0], [0.9, 1.0]])
    for _ in range(2):  # share of the unused code: 1/3 → 1/6 → 1/12 < 0.3/3
        quantizer.update([Assignment(vectors, nearest_code(vectors, quantizer.codes))], _generator(3))
    assert any(torch.equal(quantizer.codes[1], vector) for vector in vectors)
    assert quantizer.shares[1] == pytest.approx(1 / 3)
    assert (quantizer.codes[[0, 2]] - codes[[0, 2]]).abs().max() < 0.3


def test_without_a_threshold_an_unused_code_stays_for_ever() -> None:
    quantizer = _quantizer(torch.tensor([[0.0], [100.0]]), ema_decay=0.1, dead_code_threshold=0.0)
    for _ in range(100):
        quantizer.update([Assignment(torch.zeros(4, 1), torch.zeros(4, dtype=torch.int64))], _generator())
    torch.testing.assert_close(quantizer.codes, torch.tensor([[0.0], [100.0]]))


def test_restarts_bring_a_collapsed_codebook_back_to_use() -> None:
    quantizer = _quantizer(50 + torch.randn(32, 2, generator=_generator(1)), ema_decay=0.9)
    vectors, generator = torch.randn(512, 2, generator=_generator(2)), _generator(3)
    assert usage(torch.bincount(nearest_code(vectors, quantizer.codes), minlength=32)) < 0.2
    for _ in range(60):
        quantizer.update([Assignment(vectors, nearest_code(vectors, quantizer.codes))], generator)
    counts = torch.bincount(nearest_code(vectors, quantizer.codes), minlength=32)
    assert usage(counts) == 1
    assert perplexity(counts) > 16


def test_updates_are_a_function_of_the_generator() -> None:
    codes, vectors = 50 + torch.randn(8, 2, generator=_generator(1)), torch.randn(64, 2, generator=_generator(2))
    results = []
    for seed in (0, 0, 1):
        quantizer, generator = _quantizer(codes, ema_decay=0.5), _generator(seed)
        for _ in range(6):
            quantizer.update([Assignment(vectors, nearest_code(vectors, quantizer.codes))], generator)
        results.append(quantizer.codes.clone())
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_initialise_finds_separate_clusters() -> None:
    centres = torch.tensor([[-10.0, 0.0], [0.0, 10.0], [10.0, 0.0]])
    vectors = (centres[:, None] + 0.1 * torch.randn(3, 50, 2, generator=_generator(1))).flatten(0, 1)
    quantizer = _quantizer(torch.randn(12, 2, generator=_generator(2)))
    quantizer.initialise(vectors, _generator(3))
    distance = (vectors - quantizer.codes[nearest_code(vectors, quantizer.codes)]).norm(dim=1)
    assert distance.max() < 0.5
    torch.testing.assert_close(quantizer.sums / quantizer.shares[:, None], quantizer.codes)


def test_initialise_with_fewer_vectors_than_codes_makes_distinct_codes() -> None:
    quantizer = _quantizer(torch.zeros(16, 2))
    quantizer.initialise(torch.tensor([[0.0, 1.0], [1.0, 0.0], [3.0, 3.0]]), _generator())
    assert torch.isfinite(quantizer.codes).all()
    assert len(quantizer.codes.unique(dim=0)) >= 13


def test_cosine_ignores_length_and_keeps_codes_on_the_sphere() -> None:
    quantizer = Quantizer(CodebookConfig(codebook_size=12, latent_channels=3, cosine=True, ema_decay=0.5))
    latents = torch.randn(2, 3, 4, 4, generator=_generator(1))
    lengths = torch.rand(2, 1, 4, 4, generator=_generator(2)) + 0.1
    similarity = torch.einsum("kd,bdhw->bkhw", quantizer.codes, latents)
    result = quantizer(quantizer.project(latents * lengths))
    assert torch.equal(result.indices, similarity.argmax(dim=1))
    assert torch.equal(quantizer.lookup(latents), quantizer.lookup(latents * lengths))
    quantizer.update([result.assignment], _generator())
    torch.testing.assert_close(quantizer.codes.norm(dim=1), torch.ones(12))


@pytest.mark.parametrize("codebook", ["ema", "gradient"])
def test_cosine_takes_codes_that_left_the_sphere_for_their_directions(codebook: str) -> None:
    """As averages of codes do, and codes that an optimizer moved."""
    quantizer = Quantizer(CodebookConfig(codebook_size=12, latent_channels=3, codebook=codebook, cosine=True))  # type: ignore[arg-type]
    latents = torch.randn(2, 3, 4, 4, generator=_generator(1))
    expected = quantizer.lookup(latents)
    with torch.no_grad():
        quantizer.codes *= torch.rand(12, 1, generator=_generator(2)) + 0.1
    torch.testing.assert_close(quantizer.lookup(latents), expected)


def test_usage_and_perplexity_in_closed_form() -> None:
    assert usage(torch.tensor([3, 0, 1, 0])) == 0.5
    assert perplexity(torch.tensor([5, 5, 5, 5])).item() == pytest.approx(4)
    assert perplexity(torch.tensor([9, 0, 0])).item() == pytest.approx(1)
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert perplexity(torch.tensor([3, 1, 0])).item() == pytest.approx(math.exp(entropy))


def test_no_draw_is_made_from_the_global_generator() -> None:
    quantizer = _quantizer(torch.randn(8, 2, generator=_generator(1)))
    torch.manual_seed(7)
    before = torch.get_rng_state()
    quantizer.initialise(torch.randn(20, 2, generator=_generator(2)), _generator())
    result = quantizer(torch.randn(2, 2, 4, 4, generator=_generator(3)))
    quantizer.update([result.assignment], _generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_compiled_codebook_takes_the_same_codes_under_bf16_autocast() -> None:
    quantizer, latents = Quantizer(CodebookConfig(codebook_size=64, latent_channels=4)), torch.randn(2, 4, 20, 20)
    with torch.autocast("cpu", torch.bfloat16):
        compiled = torch.compile(quantizer, backend="aot_eager")(latents)
    assert torch.equal(compiled.indices, quantizer(latents).indices)
    assert torch.equal(compiled.latents, quantizer(latents).latents)
