"""The DiT against the paper's parameter counts, its own invariants, and diffusers' implementation."""

from typing import Any

import pytest
import torch

from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.layers import from_patches, to_patches
from ldm.core.denoisers.registry import build
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.errors import ConfigError
from ldm.core.interchange.transformer import NULL_CLASS, to_diffusers
from ldm.core.settings.families import config_of_preset, family_of
from ldm.core.system.compile import maybe_compile
from ldm.core.system.precision import for_inference, resolve
from tests.support.networks import awake, check_checkpointing, check_learning

SMALL = DiTConfig(latent_channels=4, latent_size=8, patch_size=2, width=32, depth=2, heads=2, num_classes=5)
OPTIONS = ["qk_norm", "rope", "swiglu", "rmsnorm", "learn_sigma"]


def inputs(batch: int = 3, config: DiTConfig = SMALL, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor, Cond]:
    torch.manual_seed(seed)
    shape = (batch, config.latent_channels, *config.size)
    return torch.randn(shape), torch.rand(batch), {"labels": torch.randint(0, config.num_classes + 1, (batch,))}


@pytest.mark.parametrize("rope", [False, True])
def test_what_blocks_add_to_is_float32_also_under_autocast(rope: bool) -> None:
    model, seen = awake(SMALL.replace(rope=rope)), list[torch.dtype]()
    for block in model.blocks:
        block.register_forward_hook(lambda block, inputs, out: seen.extend((inputs[0].dtype, out.dtype)))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        model(*inputs())
    assert seen == [torch.float32] * 4


def count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("name", "millions"),
    [("DiT-S/2", 33), ("DiT-B/2", 130), ("DiT-L/2", 458), ("DiT-XL/2", 675), ("dit-s/8", 33), ("DIT-B/4", 130)],
)
def test_presets_have_the_papers_parameter_counts(name: str, millions: int) -> None:
    config = config_of_preset(name, FAMILIES, latent_channels=4, latent_size=32, num_classes=1000, learn_sigma=True)
    with torch.device("meta"):
        model = build(config)
    d, p, n = config.width, config.patch_size, config.depth
    attention, mlp, modulation = 4 * d * d + 4 * d, 8 * d * d + 5 * d, 6 * d * d + 6 * d
    block = attention + mlp + modulation
    embeddings = (4 * p * p * d + d) + (256 * d + d + d * d + d) + 1001 * d
    final = (2 * d * d + 2 * d) + (d * p * p * 8 + p * p * 8)
    assert count(model) == n * block + embeddings + final
    # The paper's code counts the fixed position table as parameters too; its table gives whole millions.
    assert (count(model) + config.num_tokens * d) / 1e6 == pytest.approx(millions, abs=0.6)


def test_the_presets_of_a_size_differ_by_patch_only() -> None:
    small = {p: {k: v for k, v in PRESETS[f"dit-s/{p}"].items() if k != "patch_size"} for p in (1, 2, 4, 8)}
    assert len({str(v) for v in small.values()}) == 1
    assert all(name == name.lower() for name in PRESETS)


def test_an_unknown_preset_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="dit-xl/2"):
        family_of("DiT-XXL/2", FAMILIES)


@pytest.mark.parametrize("option", [None, *OPTIONS])
def test_a_new_network_outputs_exactly_zero(option: str | None) -> None:
    config = SMALL.replace(**({option: True} if option else {}))
    model = build(config)
    out = model(*inputs())
    assert out.shape == (3, config.out_channels, 8, 8)
    assert torch.count_nonzero(out) == 0


def test_every_block_of_a_new_network_is_the_identity() -> None:
    model = build(SMALL)
    tokens = torch.randn(2, 16, 32)
    condition = model.time(torch.rand(2)) + model.label(torch.tensor([0, 5]))
    modulation = model.modulation[0](torch.nn.functional.silu(condition))
    assert torch.equal(model.blocks[0](tokens, modulation, None), tokens)


@pytest.mark.parametrize("changes", [{}, {"learn_sigma": True, "patch_size": 4, "latent_channels": 3}])
def test_output_is_the_papers_network_as_diffusers_has_it(changes: dict[str, Any]) -> None:
    config = SMALL.replace(**changes)
    model = awake(config)
    x, _, cond = inputs(8, config)
    labels = cond["labels"]
    steps = torch.tensor([0, 1, 17, 250, 500, 700, 998, 999])
    with torch.no_grad():
        ours = model(x, steps / 1000, cond)
        in_theirs = torch.where(labels == config.num_classes, NULL_CLASS, labels)
        reference = to_diffusers(model, ahead=0)(x, steps, in_theirs).sample
    assert reference.std() > 0.1
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)


def test_an_image_alone_or_in_a_batch_gives_the_same_output() -> None:
    model = awake(SMALL)
    x, t, cond = inputs(9)
    with torch.no_grad():
        together = model(x, t, cond)
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1], index(cond, slice(i, i + 1))) for i in range(9)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_a_condition_prepared_beforehand_gives_the_same_output() -> None:
    model = awake(SMALL)
    x, t, cond = inputs()
    with torch.no_grad():
        assert torch.equal(model(x, t, model.prepare(cond)), model(x, t, cond))


def test_without_classes_there_is_no_embedding_and_the_condition_is_empty() -> None:
    model = awake(SMALL.replace(num_classes=0))
    x, t, _ = inputs()
    with torch.no_grad():
        output = model(x, t, {})
        assert torch.equal(model(x, t, model.prepare({})), output) and output.abs().max() > 0.1
    assert not [name for name in model.state_dict() if name.startswith("label")]


def test_taps_return_the_tokens_after_their_blocks_and_leave_the_output_alone() -> None:
    model, seen = awake(SMALL), []
    model.blocks[1].register_forward_hook(lambda block, inputs, out: seen.append(out))
    with torch.no_grad():
        plain = model(*inputs())
        output, hidden = model(*inputs(), taps=(1,))
    assert torch.equal(output, plain) and list(hidden) == [1] and torch.equal(hidden[1], seen[1])


@pytest.mark.parametrize("option", OPTIONS[:4])
def test_each_option_changes_the_output(option: str) -> None:
    plain, other = awake(SMALL), awake(SMALL.replace(**{option: True}))
    shared = {k: v for k, v in plain.state_dict().items() if v.shape == other.state_dict().get(k, v[:0]).shape}
    other.load_state_dict(shared, strict=False)
    with torch.no_grad():
        assert (plain(*inputs()) - other(*inputs())).abs().max() > 1e-2


@pytest.mark.parametrize("option", [None, *OPTIONS])
def test_training_lowers_the_loss_and_reaches_every_weight(option: str | None) -> None:
    x, t, _ = inputs(12)
    given = x, t, {"labels": torch.arange(12) % 6}

    def error(out: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        return (out[:, :4] - x).square().mean() + out[:, 4:].square().sum()

    check_learning(SMALL.replace(**({option: True} if option else {})), given, 3e-3, 30, 0.5, error)


def test_swiglu_has_as_many_parameters_as_the_mlp_it_replaces() -> None:
    wide = SMALL.replace(width=192, heads=3)
    mlp, gated = count(build(wide).blocks[0].mlp), count(build(wide.replace(swiglu=True)).blocks[0].mlp)
    assert gated == pytest.approx(mlp, rel=0.01)


def test_checkpointing_gives_the_same_gradients() -> None:
    check_checkpointing(SMALL, inputs(), rtol=1e-6)


def test_checkpointing_keeps_fewer_activations() -> None:
    saved = {}
    for checkpointing in (False, True):
        model, numbers = awake(SMALL).train(), []
        model.checkpointing = checkpointing
        with torch.autograd.graph.saved_tensors_hooks(lambda x, n=numbers: (n.append(x.numel()), x)[1], lambda x: x):
            model(*inputs(16))
        saved[checkpointing] = sum(numbers)
    assert saved[True] < 0.5 * saved[False]


def test_latents_need_not_be_square() -> None:
    config = SMALL.replace(latent_size=(4, 12))
    model = awake(config)
    x, t, cond = inputs(2, config)
    with torch.no_grad():
        assert model(x, t, cond).shape == (2, 4, 4, 12)
    torch.testing.assert_close(
        from_patches(to_patches(x, 2).unflatten(-1, (4, 4)).transpose(-1, -2).flatten(-2), 2, model.config.grid), x
    )


def test_bf16_compute_stays_close_and_returns_the_input_format() -> None:
    model = awake(SMALL)
    exact = model(*inputs())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(*inputs())
    assert rough.dtype == torch.float32
    assert (rough - exact).square().mean() < 1e-3 * exact.square().mean()
    assert not torch.equal(rough, exact)


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"latent_size": 9}, "patches of 2"),
        ({"latent_size": 0}, "patches"),
        ({"heads": 3}, "heads"),
        ({"width": 34, "heads": 1}, "by 4"),
        ({"width": 12, "heads": 2, "rope": True}, "rope"),
        ({"depth": 0}, "depth"),
        ({"label_dropout": 1.0}, "label_dropout"),
        ({"num_classes": -1}, "num_classes"),
        ({"latent_size": 100_000}, "tokens"),
        ({"frequencies": 7}, "frequencies"),
    ],
)
def test_numbers_that_do_not_go_together_are_refused(fields: dict[str, object], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        SMALL.replace(**fields)


@pytest.mark.slow
def test_a_network_compiled_to_sample_gives_the_same_output_with_and_without_guidance() -> None:
    cpu = resolve("cpu", "fp32")
    plain, compiled = awake(SMALL), for_inference(awake(SMALL), cpu)
    maybe_compile(compiled, True, cpu.device)
    x, t, cond = whole = inputs()
    for given in (whole, (x[:1], t[:1], index(cond, slice(1))), whole):
        with torch.no_grad():
            torch.testing.assert_close(compiled(*given), plain(*given), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_output_and_gradients() -> None:
    plain, compiled = awake(SMALL), awake(SMALL)
    maybe_compile(compiled, True, torch.device("cpu"))
    outs = [model(*inputs()) for model in (plain, compiled)]
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-4, atol=1e-5)
    for out in outs:
        out.square().mean().backward()
    for (name, a), (other, b) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert name == other
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
