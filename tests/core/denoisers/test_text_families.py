"""What holds for every transformer that takes text: padding, neighbours, gradients, a loss that begins at one."""

import json

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.layers import EPS
from ldm.core.denoisers.linear_dit_config import LinearDiTConfig
from ldm.core.denoisers.mmdit_config import MMDiTConfig
from ldm.core.denoisers.registry import build, outline
from ldm.core.denoisers.text import TextTower
from ldm.core.denoisers.text_config import TextDenoiserConfig
from ldm.core.denoisers.text_dit_config import TextDiTConfig
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.errors import ConfigError
from ldm.core.settings.families import config_of_preset
from ldm.core.system.compile import maybe_compile
from tests.support.networks import awake, check_checkpointing, check_learning

SHAPE = {"latent_channels": 4, "latent_size": 8, "patch_size": 2, "width": 32, "depth": 2, "heads": 2}
OWN = {"vocabulary": 9, "text_length": 6, "text_width": 16, "text_layers": 1}
FROZEN = {"token_width": 12, "pooled_width": 10, "text_length": 6}
MMDIT = MMDiTConfig(**SHAPE, **OWN)
LINEAR = LinearDiTConfig(**SHAPE, **OWN, cross_heads=4)
CONFIGS: dict[str, TextDenoiserConfig] = {
    "mmdit": MMDIT,
    "mmdit, frozen": MMDiTConfig(**SHAPE, **FROZEN, dual=1),
    "mmdit, classes": MMDiTConfig(**SHAPE, num_classes=5, text_width=16),
    "mmdit, text and classes": MMDIT.replace(num_classes=5),
    "dit-text": TextDiTConfig(**SHAPE, **OWN, text="sequence", rope=True, qk_norm=True),
    "dit-text, frozen": TextDiTConfig(**SHAPE, **FROZEN, text="sequence"),
    "dit-cross": TextDiTConfig(**SHAPE, **OWN, text="cross"),
    "dit-cross, classes": TextDiTConfig(**SHAPE, num_classes=5, text_width=16, text="cross"),
}
CONFIGS |= {
    "linear-dit": LINEAR,
    "linear-dit, frozen": LINEAR.replace(vocabulary=0, token_width=12),
    "linear-dit, softmax": LINEAR.replace(attention="softmax"),
    "linear-dit, classes": LINEAR.replace(vocabulary=0, num_classes=5),
}
ALL = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
OF_TEXT = pytest.mark.parametrize(
    "config",
    [pytest.param(config, id=name) for name, config in CONFIGS.items() if config.takes_text],
)


def inputs(config: TextDenoiserConfig, batch: int = 3) -> tuple[Tensor, Tensor, Cond]:
    """Texts of 6, 2 and 3 valid tokens."""
    torch.manual_seed(1)
    cond: Cond = {}
    if config.num_classes:
        cond["labels"] = torch.arange(batch) % (config.num_classes + 1)
    if config.vocabulary:
        cond["ids"] = torch.arange(6 * batch).view(batch, 6) % config.vocabulary
    if config.token_width:
        cond["tokens"] = torch.randn(batch, 6, config.token_width)
    if config.pooled_width:
        cond["pooled"] = torch.randn(batch, config.pooled_width)
    if config.takes_text:
        cond["mask"] = torch.arange(6) < torch.tensor([[6], [2], [3]] * batch)[:batch]
    return torch.randn(batch, *config.latent_shape), torch.rand(batch), cond


@ALL
@torch.no_grad()
def test_an_output_depends_neither_on_the_batch_nor_on_when_the_condition_is_prepared(
    config: TextDenoiserConfig,
) -> None:
    model, (x, t, cond) = awake(config), inputs(config)
    together = model(x, t, cond)
    alone = torch.cat([model(x[i : i + 1], t[i : i + 1], index(cond, slice(i, i + 1))) for i in range(3)])
    tapped, hidden = model(x, t, cond, taps=(0, 1))
    assert together.std() > 0.01 and torch.equal(model(x, t, model.prepare(cond)), together)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(tapped, together) and [h.shape for h in hidden.values()] == [(3, 16, 32)] * 2


@OF_TEXT
@torch.no_grad()
def test_an_output_depends_on_valid_tokens_alone_and_not_on_how_many_others_there_are(
    config: TextDenoiserConfig,
) -> None:
    model, (x, t, cond) = awake(config), inputs(config)
    expected, mask = model(x, t, cond), cond["mask"]
    name = "ids" if config.vocabulary else "tokens"
    hidden = cond[name].masked_fill(~mask.view(*mask.shape, *(1,) * (cond[name].ndim - 2)), 8)
    torch.testing.assert_close(model(x, t, {**cond, name: hidden}), expected, rtol=1e-5, atol=1e-6)
    short = {key: field[1:, :3] if field.ndim > 1 and key != "pooled" else field[1:] for key, field in cond.items()}
    torch.testing.assert_close(model(x[1:], t[1:], short), expected[1:], rtol=1e-4, atol=1e-5)
    other = (cond[name] + 1) % 9 if config.vocabulary else -cond[name]
    assert ((model(x, t, {**cond, name: other}) - expected).abs().amax((1, 2, 3)) > 1e-4).all()


@ALL
@torch.no_grad()
def test_every_condition_changes_the_output(config: TextDenoiserConfig) -> None:
    model, (x, t, cond) = awake(config), inputs(config)
    expected = model(x, t, cond)
    for name in {"labels", "pooled"} & cond.keys():
        other = (cond[name] + 1) % 5 if name == "labels" else -cond[name]
        assert (model(x, t, {**cond, name: other}) - expected).abs().max() > 1e-3
    assert (model(x, 1 - t, cond) - expected).abs().max() > 1e-3


@ALL
def test_checkpointing_gives_the_same_gradients(config: TextDenoiserConfig) -> None:
    check_checkpointing(config, inputs(config))


@ALL
def test_training_lowers_the_loss_and_reaches_every_weight(config: TextDenoiserConfig) -> None:
    check_learning(config, inputs(config, 8), lr=5e-3)


@ALL
def test_training_flops_are_three_times_the_forward_pass_of_the_blocks(config: TextDenoiserConfig) -> None:
    """What is computed once for an image, and attention itself, are left out: a few percent of a real network."""
    wide = config.replace(width=256, heads=4, depth=4, latent_size=16)
    model = build(wide)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*inputs(wide, 1))
    assert model.training_flops == pytest.approx(3 * counted.get_total_flops(), rel=0.15)


@ALL
def test_a_new_network_predicts_zero_so_that_the_loss_of_a_flow_begins_at_two(config: TextDenoiserConfig) -> None:
    model, (_, t, cond) = build(config), inputs(config, 64)
    torch.manual_seed(2)
    x0 = torch.randn(64, *config.latent_shape)
    objective = Denoising(schedule("rectified-flow", 1000), "flow", "flow")
    loss = objective.loss(model, x0, {"noise": torch.randn_like(x0), "t": t}, cond)
    assert loss.mean().item() == pytest.approx(2, abs=0.08)


@ALL
@torch.no_grad()
def test_bf16_compute_stays_close_and_returns_the_input_format(config: TextDenoiserConfig) -> None:
    model, given = awake(config), inputs(config)
    exact = model(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = model(*given)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean() < 2e-3 * exact.square().mean()


@pytest.mark.slow
def test_blocks_compiled_for_several_sizes_compute_the_same() -> None:
    for side in (8, 16):
        config = LINEAR.replace(latent_size=side)
        model, given = awake(config).train(), inputs(config)
        exact = model(*given)
        maybe_compile(model, True, torch.device("cpu"))
        compiled = model(*given)
        compiled.square().mean().backward()
        torch.testing.assert_close(compiled, exact, rtol=1e-4, atol=1e-5)


@ALL
def test_a_saved_config_is_the_same_when_read(config: TextDenoiserConfig) -> None:
    assert type(config).from_json(json.loads(json.dumps(config.model_dump(mode="json")))) == config


TRIO = ("dit-text", "dit-cross", "mmdit")
SD3 = {"latent_channels": 16, "latent_size": 128, "token_width": 4096, "pooled_width": 2048}
SANA = {"latent_channels": 32, "latent_size": 32, "token_width": 2304}
SMALL = {"latent_channels": 4, "latent_size": 16, "token_width": 256}


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [
        *(
            ("mmdit-d15", {**SD3, "depth": d, "heads": d, "width": 64 * d}, n)
            for d, n in ((4, 10_548_800), (6, 33_098_560))
        ),
        *(
            ("mmdit-d15", {**SD3, "depth": d, "heads": d, "width": 64 * d}, n)
            for d, n in ((8, 76_602_432), (12, 254_784_064))
        ),
        ("mmdit-d15", SD3, 496_066_624),
        ("mmdit-d18", SD3, 856_159_552),
        ("mmdit-d21", SD3, 1_358_950_720),
        ("mmdit-d30", SD3, 3_962_392_384),
        ("mmdit-d38", SD3, 8_056_617_792),
        ("sd3-medium", SD3, 2_028_328_000),
        ("sd3.5-medium", SD3, 2_243_171_520),
        ("sd3.5-large", SD3, 8_056_627_520),
        ("sana-0.6b", SANA, 591_747_872),
        ("sana-1.6b", SANA, 1_604_462_752),
        ("linear-dit-xs", {**SANA, "token_width": 384}, 6_904_352),
        ("linear-dit-s", {**SANA, "token_width": 384}, 19_942_688),
        ("mmdit-xs", SMALL, 13_817_872),
        ("mmdit-xs/1", {**SMALL, "latent_size": 8}, 13_811_716),
        ("mmdit-s", {**SMALL, "token_width": 384}, 41_639_184),
    ],
)
def test_sizes_are_the_published_ones(preset: str, given: dict[str, int], expected: int) -> None:
    assert count(outline(config_of_preset(preset, FAMILIES, **given))) == expected


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("size", "text"), [("xs", {"vocabulary": 1000, "text_length": 32}), ("s", SMALL), ("b", SMALL)]
)
def test_the_three_ways_to_take_a_text_have_about_as_many_parameters_at_each_size(
    size: str, text: dict[str, int]
) -> None:
    given = {"latent_channels": 4, "latent_size": 16, **text}
    counts = [count(outline(config_of_preset(f"{name}-{size}", FAMILIES, **given))) for name in TRIO]
    assert max(counts) < 1.08 * min(counts), counts  # The last block of an MM-DiT has no weights after the attention.


@torch.no_grad()
def test_positions_are_those_of_the_centre_of_a_table_and_go_on_beyond_it() -> None:
    """So that a latent of another size has the same positions in its middle (and any size may be drawn)."""
    model = build(MMDIT.replace(position_side=12, position_base=8))
    assert isinstance(model.positions, Tensor)
    table = model._positions((12, 12)).unflatten(0, (12, 12))
    larger = model._positions((18, 18)).unflatten(0, (18, 18))
    assert torch.equal(model.positions.unflatten(0, (4, 4)), table[4:8, 4:8])
    torch.testing.assert_close(larger[3:15, 3:15], table, rtol=0, atol=1e-6)
    assert float(table[0, 3, 0]) == pytest.approx(torch.tensor(2.0).sin().item())
    assert model(torch.randn(1, 4, 8, 20), torch.rand(1), index(inputs(MMDIT)[2], slice(0, 1))).shape == (1, 4, 8, 20)


@torch.no_grad()
def test_without_the_neighbours_of_its_convolutions_linear_attention_knows_no_positions() -> None:
    """Cells that change places change places in the output; with neighbours they do not."""
    model, (x, t, cond) = awake(LINEAR.replace(patch_size=1)), inputs(LINEAR)
    order = torch.randperm(64)
    moved = x.flatten(2)[..., order].view_as(x)
    for neighbours in (True, False):
        if not neighbours:
            for module in model.modules():
                if isinstance(module, nn.Conv2d):
                    module.weight.mul_(torch.eye(3)[1][:, None] * torch.eye(3)[1])
        apart = (model(moved, t, cond) - model(x, t, cond).flatten(2)[..., order].view_as(x)).abs().max()
        assert (apart > 1e-2) == neighbours, apart


@torch.no_grad()
def test_a_text_of_vectors_has_no_order_but_that_of_its_encoder() -> None:
    for name in ("mmdit, frozen", "dit-text, frozen", "linear-dit, frozen"):
        model, (x, t, cond) = awake(CONFIGS[name]), inputs(CONFIGS[name])
        turned = {**cond, "tokens": cond["tokens"].flip(1), "mask": cond["mask"].flip(1)}
        torch.testing.assert_close(model(x, t, turned), model(x, t, cond), rtol=1e-4, atol=1e-5)


def test_what_does_not_fit_together_is_refused() -> None:
    with pytest.raises(ConfigError, match="cross_heads 5"):
        LINEAR.replace(cross_heads=5)
    for fields, words in (({"vocabulary": 0}, "classes or captions"), ({"dual": 3}, "dual is 3, of 2 blocks")):
        with pytest.raises(ConfigError, match=words):
            MMDIT.replace(**fields)


@pytest.mark.parametrize(
    "config", [pytest.param(config, id=name) for name, config in CONFIGS.items() if config.vocabulary]
)
@torch.no_grad()
def test_before_training_texts_are_their_embeddings(config: TextDenoiserConfig) -> None:
    (tower,) = (module for module in build(config).modules() if isinstance(module, TextTower))
    ids = torch.tensor([[3, 1, 4]]) % config.vocabulary
    embedded = tower.table(ids) + tower.positions[:3]
    expected = embedded * embedded.square().mean(-1, keepdim=True).add(EPS).rsqrt()
    torch.testing.assert_close(tower(ids, torch.ones(1, 3, dtype=torch.bool)), expected)
