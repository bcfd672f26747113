"""Our MM-DiT as diffusers' SD3Transformer2DModel, and back.

There, queries, keys and values are apart; patches are a convolution; and the modulations of the final layer, and of the
text in the last block, have the scale first. Its table of positions is a buffer that is saved.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.layers import sincos_positions
from ..denoisers.mmdit import MMDiT
from ..denoisers.mmdit_config import MMDiTConfig
from ..errors import ConfigError, DataError
from .mapping import (
    Given,
    Names,
    Reader,
    Weights,
    network_of_theirs,
    own_tensors,
    refuse_scalars_and_rectangles,
    shape_of,
    to_theirs,
)
from .scheduler import FLOW_MATCH
from .stock import Slot, Stock

TITLE = "MM-DiT"
PIPELINE = Stock(
    "StableDiffusion3Pipeline",
    network="transformer",
    autoencoder="vae",
    classes=("AutoencoderKL",),
    slots=(
        Slot("text_encoder", "tokenizer", clip=True, layer="penultimate", projected=True),
        Slot("text_encoder_2", "tokenizer_2", clip=True, layer="penultimate", projected=True),
        Slot("text_encoder_3", "tokenizer_3", clip=False, layer="last", optional=True, tokens=256),
    ),
    seen=True,
    flow=FLOW_MATCH,
    shifts=True,
    options=lambda described, length: {
        "max_sequence_length": str(sum(part["tokens"] for part in described["parts"][2:])),
    },
)
PIPELINES = (PIPELINE,)
CLASS_NAMES = ("SD3Transformer2DModel",)
summary = shape_of
_REMEDY = "give a folder of a StableDiffusion3Pipeline's transformer"
_READER = Reader("an MM-DiT", _REMEDY)
_TABLE = "pos_embed.pos_embed"
_FAR = 1e-4  # in positions: those of others may have been computed in float32


def require_expressible(config: MMDiTConfig) -> None:
    """Raise ConfigError naming the setting that diffusers' SD3 does not have."""
    refuse_scalars_and_rectangles(CLASS_NAMES[0], config)


def pipeline(config: MMDiTConfig) -> Stock:
    """Return the pipeline that draws from the network."""
    return PIPELINE


def to_diffusers(model: MMDiT, ahead: int = 1) -> nn.Module:
    """Return the same network as an SD3Transformer2DModel, on the CPU, in evaluation mode, without what embeds texts.

    Raises ConfigError naming a setting that it does not have.
    """
    config = model.config
    require_expressible(config)
    theirs = to_theirs(_swapped(own_tensors(model, ahead), config), _names(config))
    patch = (config.latent_channels, config.patch_size, config.patch_size)
    theirs["pos_embed.proj.weight"] = theirs["pos_embed.proj.weight"].unflatten(1, patch)
    settings = {
        "sample_size": config.size[0],  # Positions do not follow from it, as their table is saved.
        "patch_size": config.patch_size,
        "in_channels": config.latent_channels,
        "num_layers": config.depth,
        "attention_head_dim": config.width // config.heads,
        "num_attention_heads": config.heads,
        "joint_attention_dim": config.context_width,
        "caption_projection_dim": config.width,
        "pooled_projection_dim": config.summary_width,
        "out_channels": config.out_channels,
        "pos_embed_max_size": config.position_side,
        "dual_attention_layers": tuple(range(config.dual)),
        "qk_norm": "rms_norm" if config.qk_norm else None,
    }
    return network_of_theirs(CLASS_NAMES[0], settings, theirs | {_TABLE: _table(config)})


def outputs(theirs: Any, config: MMDiTConfig, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], ahead: int) -> Tensor:
    """Return what the exported network makes of x (B, C, H, W) at t (B,) for texts without padding."""
    sample: Tensor = theirs(x, cond["tokens"], cond["pooled"], t * config.time_scale - ahead).sample
    return sample


def from_diffusers(given: Given) -> MMDiT:
    """Return the network of an SD3Transformer2DModel. Raises DataError for one that ours cannot be."""
    return _READER.network(given, lambda weights: _config(given, weights), MMDiT, _tensors)


def _tensors(model: MMDiT, weights: Weights) -> dict[str, Tensor]:
    config, table = model.config, weights.get(_TABLE, 3)
    if table.shape != (1, config.position_side**2, config.width) or (table - _table(config)).abs().max() > _FAR:
        raise DataError(f"{weights.path}: {_TABLE} does not hold the positions that its config describes", _REMEDY)
    own = weights.ours(_names(config), model.state_dict().keys())
    own["patch.weight"] = own["patch.weight"].flatten(1)
    return _swapped(own, config)


def _config(given: Given, weights: Weights) -> MMDiTConfig:
    settings = given.settings
    patch, heads, depth = settings["patch_size"], settings["num_attention_heads"], settings["num_layers"]
    width, channels = heads * settings["attention_head_dim"], settings["in_channels"]
    dual, qk_norm = list(settings.get("dual_attention_layers") or ()), settings.get("qk_norm")
    if settings["caption_projection_dim"] != width:
        raise ConfigError(f"caption_projection_dim is {settings['caption_projection_dim']}, the width {width}")
    if dual != list(range(len(dual))):
        raise ConfigError(f"dual_attention_layers are {dual}, and not the first ones")
    if qk_norm not in (None, "rms_norm"):
        raise ConfigError(f"qk_norm is {qk_norm!r}")
    return MMDiTConfig(
        latent_channels=channels,
        latent_size=settings["sample_size"],
        learn_sigma=(settings.get("out_channels") or channels) == 2 * channels,
        label_dropout=0.1,
        time_scale=given.time_scale,
        token_width=settings["joint_attention_dim"],
        pooled_width=settings["pooled_projection_dim"],
        patch_size=patch,
        width=width,
        depth=depth,
        heads=heads,
        qk_norm=qk_norm is not None,
        dual=len(dual),
        position_side=settings["pos_embed_max_size"],
        position_base=_base(weights, width, settings["pos_embed_max_size"]) or settings["sample_size"] // patch,
    )


def _base(weights: Weights, width: int, side: int) -> int:
    """Return what a table of positions spans: its first frequency is 1, of columns, so that an angle is a position."""
    table = weights.tensors.get(_TABLE)
    if table is None or table.shape != (1, side**2, width) or side < 2:
        return 0
    quarter = width // 4
    return round(float(torch.atan2(table[0, 1, 0], table[0, 1, quarter])) % (2 * math.pi) * side)


def _table(config: MMDiTConfig) -> Tensor:
    """Return their table of positions (1, S², D)."""
    side = config.position_side
    apart = config.position_base / side
    return sincos_positions(config.width, (side, side), spacing=(apart, apart))[None]


def _swapped(tensors: Mapping[str, Tensor], config: MMDiTConfig) -> dict[str, Tensor]:
    """Exchange shift and scale where their order differs."""
    names = (f"modulation.{config.depth}", f"text_modulation.{config.depth - 1}")
    chosen = {f"{name}.{part}" for name in names for part in ("weight", "bias")}
    return {name: torch.cat(tensor.chunk(2)[::-1]) if name in chosen else tensor for name, tensor in tensors.items()}


def _names(config: MMDiTConfig) -> Names:
    names: dict[str, tuple[str, ...]] = {
        "patch": ("pos_embed.proj",),
        "time.up": ("time_text_embed.timestep_embedder.linear_1",),
        "time.down": ("time_text_embed.timestep_embedder.linear_2",),
        "pooled_up": ("time_text_embed.text_embedder.linear_1",),
        "pooled_down": ("time_text_embed.text_embedder.linear_2",),
        "context": ("context_embedder",),
        f"modulation.{config.depth}": ("norm_out.linear",),
        "final": ("proj_out",),
    }
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        names |= {
            f"modulation.{i}": (f"{theirs}.norm1.linear",),
            f"text_modulation.{i}": (f"{theirs}.norm1_context.linear",),
            **_attention_names(f"{ours}.attention", f"{theirs}.attn"),
            **_attention_names(f"{ours}.dual", f"{theirs}.attn2"),
            f"{ours}.text_attention.qkv": tuple(f"{theirs}.attn.add_{letter}_proj" for letter in "qkv"),
            f"{ours}.text_attention.q_norm": (f"{theirs}.attn.norm_added_q",),
            f"{ours}.text_attention.k_norm": (f"{theirs}.attn.norm_added_k",),
            f"{ours}.text_attention.out": (f"{theirs}.attn.to_add_out",),
            f"{ours}.mlp.up": (f"{theirs}.ff.net.0.proj",),
            f"{ours}.mlp.down": (f"{theirs}.ff.net.2",),
            f"{ours}.text_mlp.up": (f"{theirs}.ff_context.net.0.proj",),
            f"{ours}.text_mlp.down": (f"{theirs}.ff_context.net.2",),
        }
    return names


def _attention_names(ours: str, theirs: str) -> Names:
    return {
        f"{ours}.qkv": tuple(f"{theirs}.to_{letter}" for letter in "qkv"),
        f"{ours}.q_norm": (f"{theirs}.norm_q",),
        f"{ours}.k_norm": (f"{theirs}.norm_k",),
        f"{ours}.out": (f"{theirs}.to_out.0",),
    }
