"""Our U-Net as diffusers' UNet2DModel, with tokens as its UNet2DConditionModel, and back.

What differs there: queries, keys and values are apart, names follow levels, and the network is given a step
k = s t - `ahead` where ours is given the time t, as in `transformer`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from ..denoisers.unet import UNet
from ..denoisers.unet_config import UNetConfig
from ..errors import ConfigError
from .mapping import Given, Names, Reader, Weights, network_of_theirs, own_tensors, require_settings, to_theirs
from .scheduler import FLOW
from .stock import Slot, Stock

TITLE = "U-Net"
PIPELINES = (
    Stock("LDMPipeline", network="unet", autoencoder="vqvae", flow=FLOW),
    Stock(
        "StableDiffusionPipeline",
        network="unet",
        autoencoder="vae",
        classes=("AutoencoderKL",),
        slots=(Slot("text_encoder", "tokenizer", clip=True, layer="last"),),
        seen=True,
        made_with={"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False},
        scheduled={"steps_offset": 1},  # which it wants, and trailing steps do not use
    ),
)
CLASS_NAMES = ("UNet2DModel", "UNet2DConditionModel")
_REMEDY = "give a folder of diffusers' UNet2DModel or UNet2DConditionModel"
_READER = Reader("a U-Net", _REMEDY)
_OURS = {"modulation": ("scale-shift", "add"), "edge": (3,)}  # what our config must say
_THEIRS: dict[str, Any] = {  # what their config must say, where it says anything
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "flip_sin_to_cos": True,
    "freq_shift": 0,
    "act_fn": "silu",
    "norm_eps": 1e-5,
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "add_attention": True,
    "class_embed_type": None,
    "addition_embed_type": None,
    "encoder_hid_dim": None,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "conv_in_kernel": 3,
    "conv_out_kernel": 3,
    "timestep_post_act": None,
    "time_cond_proj_dim": None,
    "time_embedding_dim": None,
}
_KINDS = {
    "res": ("DownBlock2D", "ResnetDownsampleBlock2D"),
    "res attn": ("AttnDownBlock2D",),
    "res cross": ("CrossAttnDownBlock2D",),
}


def require_expressible(config: UNetConfig) -> None:
    """Raise ConfigError naming the setting that diffusers' U-Nets do not have."""
    for name, allowed in _OURS.items():
        if getattr(config, name) not in allowed:
            raise _inexpressible(name, getattr(config, name))
    if config.size[0] != config.size[1]:
        raise _inexpressible("latent_size", list(config.size))
    if config.multipliers[0] != 1:
        raise _inexpressible("multipliers", config.multipliers)
    attention = "cross" if config.takes_text else "attn"
    if config.middle != f"res {attention} res":
        raise _inexpressible("middle", config.middle)
    if not set(config.levels) <= {"res", f"res {attention}"}:
        raise _inexpressible("blocks", config.blocks)
    if config.takes_text and config.resample != "conv":
        raise _inexpressible("resample", config.resample)
    if not config.takes_text and len({_head_width(config, channels) for channels in _attended(config)}) > 1:
        raise _inexpressible("heads", config.heads)


def pipeline(config: UNetConfig) -> Stock:
    """Return the pipeline that draws from the network. Raises ConfigError for one of classes, which has none."""
    if config.num_classes:
        raise ConfigError(
            f"no pipeline of diffusers draws from a U-Net of latents with {config.num_classes:,} classes",
            "only `ldm sample` draws from this denoiser; for export train one with `conditioning=none`",
        )
    return PIPELINES[config.takes_text]


def _inexpressible(name: str, value: object) -> ConfigError:
    return ConfigError(
        f"{name} {value} of the denoiser cannot be expressed in diffusers' U-Nets",
        "only `ldm sample` draws from this denoiser; train one of a preset adm-…, unet-… or ldm-… for export",
    )


def _head_width(config: UNetConfig, channels: int) -> int:
    return channels // config.num_heads(channels)


def _attended(config: UNetConfig) -> list[int]:
    return [part.channels for part in config.parts() if {"attn", "cross"} & set(part.blocks)]


def to_diffusers(model: UNet, ahead: int = 1) -> nn.Module:
    """Return the same network as diffusers has it, on the CPU, in evaluation mode.

    Raises ConfigError naming a setting that it does not have.
    """
    config = model.config
    require_expressible(config)
    theirs = to_theirs(own_tensors(model, ahead), _names(config))
    return network_of_theirs(CLASS_NAMES[config.takes_text], _settings(config), theirs)


def _settings(config: UNetConfig) -> dict[str, Any]:
    """Return the arguments of diffusers' class."""
    levels = [int(config.channels * multiplier) for multiplier in config.multipliers]
    plain = "DownBlock2D" if config.resample == "conv" else "ResnetDownsampleBlock2D"
    down = [plain if string == "res" else _KINDS[string][0] for string in config.levels]
    settings: dict[str, Any] = {
        "sample_size": config.size[0],
        "in_channels": config.latent_channels,
        "out_channels": config.out_channels,
        "block_out_channels": levels,
        "layers_per_block": config.repeats,
        "down_block_types": down,
        "up_block_types": [kind.replace("Downsample", "Upsample").replace("Down", "Up") for kind in reversed(down)],
        "norm_num_groups": config.groups,
        "resnet_time_scale_shift": "scale_shift" if config.modulation == "scale-shift" else "default",
    }
    if config.num_classes:
        settings["num_class_embeds"] = config.num_classes + config.has_null
    if config.takes_text:
        return settings | {
            "cross_attention_dim": config.context_width,
            "attention_head_dim": [config.num_heads(channels) for channels in levels],  # There it is their number.
            "transformer_layers_per_block": config.depth,
            "use_linear_projection": True,
        }
    resample = "resnet" if config.resample == "res" else "conv"
    return settings | {
        "attention_head_dim": _head_width(config, _attended(config)[0]),  # And here their width.
        "attn_norm_num_groups": config.groups,
        "downsample_type": resample,
        "upsample_type": resample,
    }


def outputs(theirs: Any, config: UNetConfig, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], ahead: int) -> Tensor:
    """Return what the exported network makes of x (B, C, H, W) at t (B,) for a condition."""
    given = {"class_labels": cond["labels"]} if config.num_classes else {}
    if config.takes_text:
        given["encoder_hidden_states"] = cond["tokens"]
        if "mask" in cond:
            given["encoder_attention_mask"] = cond["mask"]
    sample: Tensor = theirs(x, t * config.time_scale - ahead, **given).sample
    return sample


def summary(config: UNetConfig) -> str:
    """Say the shape of a network in a few words."""
    levels = ", ".join(f"{multiplier:g}" for multiplier in config.multipliers)
    return f"channels {config.channels} x {levels}, {config.repeats} times the blocks of a level"


def _names(config: UNetConfig) -> Names:
    names: dict[str, tuple[str, ...]] = {
        "first": ("conv_in",),
        "time.up": ("time_embedding.linear_1",),
        "time.down": ("time_embedding.linear_2",),
        "label.table": ("class_embedding",),
        "norm": ("conv_norm_out",),
        "last": ("conv_out",),
    }
    last, repeat = len(config.multipliers) - 1, 0
    for i, part in enumerate(config.parts()):
        level = part.level + {"shrink": -1, "grow": 1}.get(part.kind, 0)
        block = {"down": f"down_blocks.{level}", "middle": "mid_block", "up": f"up_blocks.{last - level}"}[part.where]
        if part.kind != "unit":
            name = f"{block}.{'downsamplers' if part.kind == 'shrink' else 'upsamplers'}.0"
            names |= _res_names(f"blocks.{i}", name) | {f"blocks.{i}.conv": (f"{name}.conv",)}
            repeat = 0
            continue
        if part.where != config.parts()[i - 1].where:
            repeat = 0
        for j, kind in enumerate(part.blocks):
            mine = f"blocks.{i}.blocks.{j}"
            place = repeat if part.where != "middle" else part.blocks[:j].count(kind)
            if kind == "res":
                names |= _res_names(mine, f"{block}.resnets.{place}")
            elif kind == "attn":
                names |= _attention_names(mine, f"{block}.attentions.{place}")
            else:
                names |= _cross_names(mine, f"{block}.attentions.{place}", config.depth)
        repeat += 1
    return names


def _res_names(mine: str, theirs: str) -> dict[str, tuple[str, ...]]:
    same = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
    pairs = same | {"modulation": "time_emb_proj", "modulation.both": "time_emb_proj", "skip": "conv_shortcut"}
    return {f"{mine}.{ours}": (f"{theirs}.{name}",) for ours, name in pairs.items()}


def _attention_names(mine: str, theirs: str) -> Names:
    return {
        f"{mine}.norm": (f"{theirs}.group_norm",),
        f"{mine}.qkv": tuple(f"{theirs}.to_{letter}" for letter in "qkv"),
        f"{mine}.out": (f"{theirs}.to_out.0",),
    }


def _cross_names(mine: str, theirs: str, depth: int) -> Names:
    names: dict[str, tuple[str, ...]] = {
        f"{mine}.norm": (f"{theirs}.norm",),
        f"{mine}.first": (f"{theirs}.proj_in",),
        f"{mine}.last": (f"{theirs}.proj_out",),
    }
    for i in range(depth):
        ours, other = f"{mine}.layers.{i}", f"{theirs}.transformer_blocks.{i}"
        names |= {
            **{f"{ours}.norm{n}": (f"{other}.norm{n}",) for n in (1, 2, 3)},
            f"{ours}.qkv": tuple(f"{other}.attn1.to_{letter}" for letter in "qkv"),
            f"{ours}.out1": (f"{other}.attn1.to_out.0",),
            f"{ours}.q": (f"{other}.attn2.to_q",),
            f"{ours}.kv": (f"{other}.attn2.to_k", f"{other}.attn2.to_v"),
            f"{ours}.out2": (f"{other}.attn2.to_out.0",),
            f"{ours}.up": (f"{other}.ff.net.0.proj",),
            f"{ours}.down": (f"{other}.ff.net.2",),
        }
    return names


def from_diffusers(given: Given) -> UNet:
    """Return the network of a UNet2DModel or UNet2DConditionModel. Raises DataError for one that ours cannot be.

    If its table of classes has a row more than classes have names, that is the null class.
    """
    flat = {
        name: tensor.flatten(1) if _is_projection(name, tensor) else tensor for name, tensor in given.tensors.items()
    }
    return _READER.network(replace(given, tensors=flat), lambda _: _config(given), UNet, _tensors)


def _tensors(model: UNet, weights: Weights) -> dict[str, Tensor]:
    return weights.ours(_names(model.config), model.state_dict().keys())


def _is_projection(name: str, tensor: Tensor) -> bool:
    """Whether a linear map before or after a transformer is written as a convolution, as in the first versions."""
    return name.endswith(("proj_in.weight", "proj_out.weight")) and tensor.dim() == 4


def _config(given: Given) -> UNetConfig:
    settings, num_named = given.settings, given.num_named
    require_settings(settings, _THEIRS)
    levels, kinds = settings["block_out_channels"], settings["down_block_types"]
    of_kind = {name: string for string, names in _KINDS.items() for name in names}
    if unknown := [kind for kind in kinds if kind not in of_kind]:
        raise ConfigError(f"down_block_types has {', '.join(map(str, unknown))}")
    crossing = "CrossAttnDownBlock2D" in kinds
    heads, depth = settings.get("attention_head_dim", 8), settings.get("transformer_layers_per_block", 1)
    if settings.get("num_attention_heads") is not None:
        raise ConfigError("num_attention_heads is set: its meaning differs between versions")
    own: dict[str, Any] = {"heads": None}
    if crossing and (isinstance(heads, int) or len(set(heads)) == 1):
        own["heads"] = heads if isinstance(heads, int) else heads[0]
    else:
        widths = {width // n for width, n in zip(levels, heads, strict=True)} if crossing else {heads}
        if len(widths) != 1:
            raise ConfigError(f"attention_head_dim {heads} differs in width by level")
        own["head_width"] = widths.pop()
    if not isinstance(depth, int):
        raise ConfigError(f"transformer_layers_per_block is {depth!r}, not one number")
    rows = settings.get("num_class_embeds") or 0
    has_null = 0 < num_named < rows if rows else crossing
    resampled = "ResnetDownsampleBlock2D" in kinds or settings.get("downsample_type") == "resnet"
    channels = settings["in_channels"]
    size = settings["sample_size"]
    return UNetConfig(
        latent_channels=channels,
        latent_size=tuple(size) if isinstance(size, list) else size,
        num_classes=num_named if rows and has_null else rows,
        label_dropout=0.1 if has_null else 0.0,
        learn_sigma=settings["out_channels"] == 2 * channels,
        time_scale=given.time_scale,
        channels=levels[0],
        multipliers=tuple(level / levels[0] for level in levels),
        blocks=",".join(of_kind[kind] for kind in kinds),
        middle="res cross res" if crossing else "res attn res",
        repeats=settings["layers_per_block"],
        resample="res" if resampled else "conv",
        modulation="scale-shift" if settings.get("resnet_time_scale_shift") == "scale_shift" else "add",
        groups=settings.get("norm_num_groups", 32),
        token_width=settings.get("cross_attention_dim", 1280) if crossing else 0,
        depth=depth,
        **own,
    )
