"""The next-scale transformer computes what its authors' code computes; its tokens are drawn as they should be."""

import numpy as np
import pytest
import torch

from ldm.core.autoregressive.sampling import Given, TokenSampling, choose, draw_tokens, restricted
from ldm.core.autoregressive.var import NextScaleTransformer, Past
from ldm.core.autoregressive.var_config import NextScaleConfig
from ldm.core.diffusion.conditions import Cond
from ldm.core.errors import ConfigError
from ldm.core.system.precision import Policy
from tests.core.autoregressive import tiny

LABELS = {"labels": torch.tensor([3, 7])}
CPU = Policy(torch.device("cpu"), torch.float32)
GREEDY = [  # under cfg 1.5, our 2.5, in the authors' code
    [[0], [0]],
    [[7, 7, 7, 7], [0, 15, 7, 7]],
    [[32] * 9, [15, 15, 0, 32, 32, 0, 32, 32, 32]],
    [[51] * 16, [50, 56, 56, 56, 42, 15, 15, 56, 51, 51, 51, 35, 51, 51, 51, 51]],
]
PUBLISHED = {"var-d16": 310_283_520, "var-d20": 600_917_136, "var-d24": 1_033_399_360, "var-d30": 2_010_020_356}


def null(cond: Cond) -> Cond:
    return {"labels": torch.full_like(cond["labels"], 10)}


@torch.no_grad()
def test_logits_are_those_of_the_authors_code() -> None:
    quantizer, network = tiny.quantizer(), tiny.transformer()
    logits = network(quantizer.inputs(quantizer(tiny.latents()).tokens), LABELS)
    first, last = [17.72522, -12.53408, -0.8773175, -3.041399], [2.04968, 0.01957114, 2.253867]
    torch.testing.assert_close(logits.flatten()[:4], torch.tensor(first), rtol=0, atol=6e-5)
    torch.testing.assert_close(logits.flatten()[-3:], torch.tensor(last), rtol=0, atol=6e-5)
    assert float(logits.square().mean().sqrt()) == pytest.approx(6.350409, rel=1e-6)


@torch.no_grad()
def test_likeliest_tokens_under_guidance_are_those_of_the_authors_code() -> None:
    quantizer, network = tiny.quantizer(), tiny.transformer()
    seen: list[torch.Tensor] = []
    greedy = TokenSampling(cfg=2.5, temperature=0)
    drawn = draw_tokens(
        network, quantizer, LABELS, null, np.array([0, 1]), greedy, CPU, on_scale=lambda k, total: seen.append(total)
    )
    expected = [torch.tensor(each).view(2, side, side) for each, side in zip(GREEDY, (1, 2, 3, 4), strict=True)]
    for ours, theirs in zip(seen, quantizer.prefixes(expected), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert torch.equal(drawn, seen[-1])


@pytest.mark.parametrize("preset", PUBLISHED)
def test_published_sizes_have_their_parameters(preset: str) -> None:
    codec = {"scales": (1, 2, 3, 4, 5, 6, 8, 10, 13, 16), "codebook_size": 4096, "code_channels": 32}
    with torch.device("meta"):
        network = NextScaleTransformer(NextScaleConfig(**codec, num_classes=1000, **NextScaleConfig.presets[preset]))
    assert sum(each.numel() for each in network.parameters()) == PUBLISHED[preset]


def test_the_512_pixel_size_with_shared_modulation_has_its_parameters() -> None:
    codec = {"scales": (1, 2, 3, 4, 6, 9, 13, 18, 24, 32), "codebook_size": 4096, "code_channels": 32}
    with torch.device("meta"):
        config = NextScaleConfig(**codec, num_classes=1000, **NextScaleConfig.presets["var-d36-s"])
        network = NextScaleTransformer(config)
    assert sum(each.numel() for each in network.parameters()) == 2_353_893_904


@torch.no_grad()
@pytest.mark.parametrize("fields", [{}, {"shared_modulation": True}, {"qk_norm": False}, {"num_classes": 0}])
def test_scale_by_scale_with_kept_keys_is_the_masked_pass(fields: dict[str, object]) -> None:
    torch.manual_seed(0)
    network = NextScaleTransformer(tiny.NETWORK.replace(**fields))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    inputs = torch.randn(2, 29, 8)
    whole, vector = network(inputs, LABELS), network.vector(LABELS, 2)
    past: list[Past] = [[] for _ in network.blocks]
    parts = [network.scale_logits(0, None, vector, past)]
    for k, (start, stop) in enumerate([(0, 4), (4, 13), (13, 29)], start=1):
        parts.append(network.scale_logits(k, inputs[:, start:stop], vector, past))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=2e-5)


def test_no_scale_sees_its_own_or_finer_codes() -> None:
    network, inputs = tiny.transformer(), torch.randn(1, 29, 8, requires_grad=True)
    logits = network(inputs, {"labels": torch.tensor([1])})
    for k, (start, stop) in enumerate([(1, 5), (5, 14), (14, 30)], start=1):
        (gradient,) = torch.autograd.grad(logits[:, start:stop].sum(), inputs, retain_graph=True)
        # Inputs of scale k + 1 and later hold the codes of scale k and later.
        assert not bool(gradient[:, stop - 1 :].any()) and bool(gradient[:, : stop - 1].any()), k


def test_an_untrained_network_is_as_unsure_as_can_be() -> None:
    torch.manual_seed(0)
    network = NextScaleTransformer(tiny.NETWORK.replace(codebook_size=512))
    loss = torch.nn.functional.cross_entropy(network(torch.randn(8, 29, 8), {"labels": torch.arange(8)}).mT, tokens())
    assert float(loss.detach()) == pytest.approx(6.23832, abs=0.02)


def tokens() -> torch.Tensor:
    return torch.randint(512, (8, 30), generator=torch.Generator().manual_seed(0))


def test_stochastic_depth_keeps_what_is_expected() -> None:
    torch.manual_seed(0)
    network = NextScaleTransformer(tiny.NETWORK.replace(drop_path=0.5)).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    inputs, labels = torch.randn(1, 29, 8).expand(2, -1, -1), {"labels": torch.tensor([1, 1])}
    all_dropped, all_kept = torch.zeros(2, 2, 2), torch.full((2, 2, 2), 0.99)
    plain = network(inputs, labels)
    # The first block is never skipped; the last one's sums are doubled where they are kept.
    dropped, kept = network(inputs, labels, all_dropped), network(inputs, labels, all_kept)
    assert not torch.allclose(dropped, plain) and not torch.allclose(kept, plain)
    shallow = NextScaleTransformer(tiny.NETWORK.replace(depth=1, drop_path=0.0)).eval()
    shallow.load_state_dict({name: value for name, value in network.state_dict().items() if "blocks.1" not in name})
    torch.testing.assert_close(dropped, shallow(inputs, labels))


@torch.no_grad()
def test_an_image_does_not_depend_on_the_others_drawn_with_it() -> None:
    quantizer, network, how = tiny.quantizer(), tiny.transformer(), TokenSampling(cfg=2.0, top_k=20, top_p=0.9)
    both = draw_tokens(network, quantizer, LABELS, null, np.array([5, 6]), how, CPU)
    swapped = {"labels": LABELS["labels"].flip(0)}
    torch.testing.assert_close(draw_tokens(network, quantizer, swapped, null, np.array([6, 5]), how, CPU).flip(0), both)


def test_tokens_are_drawn_with_their_probabilities() -> None:
    logits = torch.tensor([2.0, 0.0, -torch.inf, 1.0]).expand(1, 20_000, 4)
    uniforms = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    drawn = choose(logits, uniforms, TokenSampling(temperature=2.0)).flatten()
    shares = torch.bincount(drawn, minlength=4) / 20_000
    torch.testing.assert_close(shares, (logits[0, 0] / 2).softmax(-1), atol=0.015, rtol=0)
    assert int(choose(torch.tensor([[[-torch.inf, 0.0]]]), torch.zeros(1, 1), TokenSampling())) == 1


def test_top_k_comes_before_top_p() -> None:
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()[None, None]
    both = restricted(logits, TokenSampling(top_k=2, top_p=0.55))
    assert torch.isfinite(both).tolist() == [[[True, False, False, False]]]  # 0.4 of 0.7 is above 0.55
    assert torch.isfinite(restricted(logits, TokenSampling(top_p=0.55))).sum() == 2
    assert torch.isfinite(restricted(logits, TokenSampling(top_p=0.01))).sum() == 1


@torch.no_grad()
def test_all_tokens_given_is_the_reconstruction_and_a_mask_keeps_the_outside() -> None:
    quantizer, network, how = tiny.quantizer(), tiny.transformer(), TokenSampling()
    out, seed = quantizer(tiny.latents()), np.array([0, 1])
    whole = draw_tokens(network, quantizer, LABELS, null, seed, how, CPU, Given(out.tokens, scales=4))
    torch.testing.assert_close(whole, out.prefixes[-1])
    nothing = Given(out.tokens, redraw=torch.zeros(2, 1, 4, 4))
    torch.testing.assert_close(draw_tokens(network, quantizer, LABELS, null, seed, how, CPU, nothing), whole)
    free = draw_tokens(network, quantizer, LABELS, null, seed, how, CPU)
    everything = Given(out.tokens, redraw=torch.ones(2, 1, 4, 4))
    assert torch.equal(draw_tokens(network, quantizer, LABELS, null, seed, how, CPU, everything), free)


@torch.no_grad()
def test_smoothing_draws_other_images_by_the_same_seeds() -> None:
    quantizer, network = tiny.quantizer(), tiny.transformer()
    plain, smooth, again = (
        draw_tokens(network, quantizer, LABELS, null, np.array([0, 1]), TokenSampling(smooth=s), CPU)
        for s in (False, True, True)
    )
    assert torch.equal(smooth, again) and not torch.allclose(plain, smooth) and bool(smooth.isfinite().all())


def test_shapes_that_cannot_be_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not divide"):
        tiny.NETWORK.replace(heads=3)
    with pytest.raises(ConfigError, match="take sides that grow"):
        tiny.NETWORK.replace(scales=(2, 1))
