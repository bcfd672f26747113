"""U-Nets: published sizes, identities of each block, what is refused, and what every denoiser promises."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.registry import build, outline
from ldm.core.denoisers.unet_blocks import ClassAttention, kernel_of
from ldm.core.denoisers.unet_config import PRESETS, UNetConfig
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.errors import ConfigError
from ldm.core.settings.families import config_of_preset
from tests.support.networks import awake, check_checkpointing, check_learning

SHAPE = {"latent_channels": 4, "latent_size": 8, "num_classes": 3}
ADM = UNetConfig(**SHAPE, channels=16, multipliers=(1, 2), blocks="res,res attn", repeats=1, groups=8, head_width=8)
LDM = ADM.replace(
    num_classes=0,
    blocks="res cross,res",
    middle="res cross res",
    modulation="add",
    resample="conv",
    token_width=12,
)
MENU = ADM.replace(blocks="res conv class-attn attn channel-attn", middle="conv attn conv", modulation="split", edge=7)
TEXT = LDM.replace(token_width=0, vocabulary=7, text_length=5, text_width=16)
ALL = pytest.mark.parametrize("config", [ADM, LDM, MENU, TEXT], ids=["adm", "ldm", "menu", "text"])


def inputs(config: UNetConfig, batch: int = 3) -> tuple[Tensor, Tensor, Cond]:
    torch.manual_seed(1)
    cond: Cond = {}
    if config.num_classes:
        cond["labels"] = torch.arange(batch) % (config.num_classes + 1)
    if config.token_width:
        cond["tokens"] = torch.randn(batch, 5, config.token_width)
    if config.vocabulary:
        cond["ids"] = torch.arange(batch * 5).view(batch, 5) % config.vocabulary
    if config.takes_text:
        cond["mask"] = torch.arange(5) < torch.tensor([[5], [2], [3]] * batch)[:batch]
    return torch.randn(batch, *config.latent_shape), torch.rand(batch), cond


THOUSAND = {"latent_channels": 3, "num_classes": 1000, "learn_sigma": True, "label_dropout": 0}


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [
        ("adm-64", {**THOUSAND, "latent_size": 64}, 295_904_454),
        ("adm-128", {**THOUSAND, "latent_size": 128}, 421_529_606),
        ("adm-256", {**THOUSAND, "latent_size": 256}, 553_838_086),
        ("adm-256", {"latent_channels": 3, "latent_size": 256, "learn_sigma": True}, 552_814_086),
        ("adm-512", {**THOUSAND, "latent_size": 512}, 558_997_638),
        ("adm-latent", {"latent_channels": 4, "latent_size": 32, "num_classes": 10}, 229_400_068),
        ("unet-xs", {"latent_channels": 4, "latent_size": 16, "num_classes": 10}, 12_818_244),
        ("unet-s", {"latent_channels": 4, "latent_size": 16, "num_classes": 10}, 27_540_292),
        ("sd-1.5", {"latent_channels": 4, "latent_size": 64, "token_width": 768}, 859_520_964),
        ("sd-2.1", {"latent_channels": 4, "latent_size": 64, "token_width": 1024}, 865_910_724),
        ("sd-1.5", {"latent_channels": 4, "latent_size": 32, "token_width": 1280}, 872_300_484),
    ],
)
def test_sizes_are_the_published_ones(preset: str, given: dict[str, Any], expected: int) -> None:
    config = config_of_preset(preset, FAMILIES, **given)
    assert isinstance(config, UNetConfig)
    assert sum(parameter.numel() for parameter in outline(config).parameters()) == expected


def test_every_preset_can_be_built() -> None:
    for preset, settings in PRESETS.items():
        is_for_text = "cross" in settings.get("middle", "")
        given = {"token_width": 32} if is_for_text else {"num_classes": 4}
        config = config_of_preset(preset, FAMILIES, latent_channels=4, latent_size=64, **given)
        assert isinstance(config, UNetConfig) and outline(config).training_flops > 0


@ALL
def test_an_output_depends_neither_on_the_batch_nor_on_when_the_condition_is_prepared(config: UNetConfig) -> None:
    model = awake(config)
    x, t, cond = inputs(config)
    with torch.no_grad():
        together = model(x, t, cond)
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1], index(cond, slice(i, i + 1))) for i in range(3)])
        assert torch.equal(model(x, t, model.prepare(cond)), together)
        tapped, hidden = model(x, t, cond, taps=(0, 1))
    assert together.std() > 0.01
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    assert torch.equal(tapped, together) and [maps.shape[-1] for maps in hidden.values()] == [8, 4]


@ALL
def test_a_new_network_predicts_zero_so_that_the_loss_begins_at_one_and_for_flow_at_two(config: UNetConfig) -> None:
    model, (_, t, cond) = build(config), inputs(config, 64)
    torch.manual_seed(2)
    x0 = torch.randn(64, *config.latent_shape)
    given = {"noise": torch.randn_like(x0), "t": t}
    for kind, prediction, weighting, begins in (
        ("cosine", "v", "snr+1", 1.0),
        ("cosine", "eps", "snr", 1.0),
        ("rectified-flow", "flow", "flow", 2.0),
    ):
        objective = Denoising(schedule(kind, 1000), prediction, weighting)
        assert objective.loss(model, x0, given, cond).mean().item() == pytest.approx(begins, abs=0.04 * begins)


@ALL
def test_training_flops_are_three_times_the_forward_pass_that_torch_counts(config: UNetConfig) -> None:
    """It counts attention only where that is written out, and too much in the backward pass of depthwise kernels."""
    wide = config.replace(channels=64, latent_size=16, head_width=32, groups=32, text_length=5)
    model = build(wide)
    with FlopCounterMode(display=False) as counted, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        model(*inputs(wide, 1))
    assert model.training_flops == pytest.approx(3 * counted.get_total_flops(), rel=0.02)


@ALL
def test_checkpointing_gives_the_same_gradients(config: UNetConfig) -> None:
    check_checkpointing(config, inputs(config))


@ALL
def test_training_lowers_the_loss_and_reaches_every_weight(config: UNetConfig) -> None:
    check_learning(config, inputs(config, 8), lr=3e-3)


def test_tokens_that_the_mask_hides_change_nothing() -> None:
    model, (x, t, cond) = awake(LDM), inputs(LDM)
    other = {**cond, "tokens": torch.where(cond["mask"][..., None], cond["tokens"], 99.0)}
    padded = {
        "tokens": torch.cat([cond["tokens"], torch.ones(3, 4, 12)], dim=1),
        "mask": torch.cat([cond["mask"], torch.zeros(3, 4, dtype=torch.bool)], dim=1),
    }
    with torch.no_grad():
        torch.testing.assert_close(model(x, t, other), model(x, t, cond))
        torch.testing.assert_close(model(x, t, padded), model(x, t, cond))
        assert (model(x, t, {**cond, "tokens": -cond["tokens"]}) - model(x, t, cond)).abs().max() > 1e-3


def test_class_attention_mixes_channels_by_rows_that_sum_to_one_and_alike_without_a_class() -> None:
    model = awake(MENU)
    blocks = [module for module in model.modules() if isinstance(module, ClassAttention)]
    given = model._vectors(torch.rand(4), model.prepare({"labels": torch.tensor([0, 1, 3, 3])}))
    for block in blocks:
        matrix = block.matrix(given)
        torch.testing.assert_close(matrix.sum(dim=-1), torch.ones(matrix.shape[:2]))
        assert torch.equal(matrix[2], matrix[3]) and not torch.allclose(matrix[0], matrix[1])


def test_kernels_of_channel_attention_are_the_papers() -> None:
    assert [kernel_of(channels) for channels in (32, 64, 96, 128, 256, 512, 1024)] == [3, 3, 3, 5, 5, 5, 5]


@pytest.mark.parametrize(
    ("base", "fields", "words"),
    [
        (ADM, {"latent_size": (9, 8)}, "latents of 9 x 8 do not divide by 2 … the next size that does is 10 x 8"),
        (ADM, {"multipliers": (1, 2, 2, 2)}, "blocks has 2 strings for 4 levels"),
        (ADM, {"groups": 32}, "16 channels do not divide into 32 groups"),
        (ADM, {"head_width": 12}, "do not divide into heads of width 12"),
        (ADM, {"blocks": "ress"}, "'ress' is not a block; did you mean res?"),
        (ADM, {"blocks": "attn res"}, "'attn res' must begin with res or conv"),
        (ADM, {"middle": " "}, "must begin with"),
        (ADM, {"blocks": "res " * 17}, "17 blocks, at most 16"),
        (ADM, {"blocks": "res cross"}, "no tokens … choose a preset without cross"),
        (ADM, {"token_width": 8}, "tokens of width 8 … such as ldm-xs"),
        (MENU, {"num_classes": 0}, "modulation=split needs classes"),
        (ADM, {"num_classes": 0, "blocks": "res class-attn"}, "class-attn needs classes"),
        (ADM, {"multipliers": (1, 1e9)}, "multipliers"),
        (ADM, {"multipliers": (1,) * 13}, "13 levels … give 12 at most"),
    ],
)
def test_what_does_not_fit_together_is_refused(base: UNetConfig, fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        base.replace(**fields)
    text = f"{caught.value.message} … {caught.value.remedy}"
    assert all(part in text for part in words.split(" … ")), text


def test_a_saved_config_is_the_same_when_read(tmp_path: Path) -> None:
    for config in (ADM, LDM, MENU, TEXT):
        assert UNetConfig.from_json(json.loads(json.dumps(config.model_dump(mode="json")))) == config


def test_bf16_compute_stays_close_and_returns_the_input_format() -> None:
    model, given = awake(ADM), inputs(ADM)
    with torch.no_grad():
        exact = model(*given)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(*given)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).square().mean() < 1e-3 * exact.square().mean()
