"""Our DiT with linear attention as diffusers' SanaTransformer2DModel, and back.

There, queries, keys and values are apart, and patches and the outer maps of the gated convolution are convolutions.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..denoisers.linear_dit import LinearDiT
from ..denoisers.linear_dit_config import LinearDiTConfig
from ..errors import ConfigError
from .mapping import (
    Given,
    Names,
    Reader,
    Weights,
    network_of_theirs,
    own_tensors,
    refuse_scalars_and_rectangles,
    require_settings,
    shape_of,
    to_theirs,
)
from .scheduler import FLOW_MATCH
from .stock import Slot, Stock

TITLE = "Sana"
PIPELINE = Stock(
    "SanaPipeline",
    network="transformer",
    autoencoder="vae",
    classes=("AutoencoderDC",),
    slots=(Slot("text_encoder", "tokenizer", clip=False, layer="last", tokens=300),),
    lower=True,
    flow=FLOW_MATCH,
    multiple=32,
    options=lambda described, length: {
        "max_sequence_length": str(length),
        "complex_human_instruction": "None",
        "use_resolution_binning": "False",
    },
)
PIPELINES = (PIPELINE,)
CLASS_NAMES = ("SanaTransformer2DModel",)
summary = shape_of
_REMEDY = "give a folder of a SanaPipeline's transformer"
_READER = Reader("a Sana", _REMEDY)
_THEIRS: dict[str, Any] = {  # what their config must say, where it says anything
    "attention_bias": False,
    "dropout": 0.0,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "guidance_embeds": False,
    "qk_norm": None,
    "timestep_scale": 1.0,
}
_TABLES = "table", "scale_shift_table"
_CONVOLUTIONS = ("mlp.up", "mlp.down")  # of 1 x 1


def require_expressible(config: LinearDiTConfig) -> None:
    """Raise ConfigError naming the setting that diffusers' Sana does not have."""
    softmax = config.attention != "linear" and config.attention
    refuse_scalars_and_rectangles(CLASS_NAMES[0], config, ("attention", softmax, "has linear attention"))


def pipeline(config: LinearDiTConfig) -> Stock:
    """Return the pipeline that draws from the network."""
    return PIPELINE


def to_diffusers(model: LinearDiT, ahead: int = 1) -> nn.Module:
    """Return the same network as a SanaTransformer2DModel, on the CPU, in evaluation mode, without what embeds texts.

    Raises ConfigError naming a setting that it does not have.
    """
    config = model.config
    require_expressible(config)
    own = own_tensors(model, ahead)
    for name in _convolutions(config):
        own[f"{name}.weight"] = own[f"{name}.weight"][..., None, None]
    patch = (config.latent_channels, config.patch_size, config.patch_size)
    own["patch.weight"] = own["patch.weight"].unflatten(1, patch)
    tables = {theirs: own[mine] for mine, theirs in _tables(config).items()}
    settings = {
        "in_channels": config.latent_channels,
        "out_channels": config.out_channels,
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "num_layers": config.depth,
        "num_cross_attention_heads": config.cross_heads,
        "cross_attention_head_dim": config.width // config.cross_heads,
        "cross_attention_dim": config.width,
        "caption_channels": config.context_width,
        "mlp_ratio": config.mlp_ratio,
        "sample_size": config.size[0],
        "patch_size": config.patch_size,
        "interpolation_scale": config.positions and 1 / config.positions,
    }
    network = network_of_theirs(CLASS_NAMES[0], settings, to_theirs(own, _names(config)) | tables)
    if model.positions is not None:  # which are not among their weights
        network.get_submodule("patch_embed").pos_embed = model.positions[None].cpu()
    return network


def outputs(
    theirs: Any, config: LinearDiTConfig, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], ahead: int
) -> Tensor:
    """Return what the exported network makes of x (B, C, H, W) at t (B,) for a condition."""
    mask = cond["mask"].to(x.dtype) if "mask" in cond else None
    step = t * config.time_scale - ahead
    sample: Tensor = theirs(x, cond["tokens"], step, encoder_attention_mask=mask).sample
    return sample


def from_diffusers(given: Given) -> LinearDiT:
    """Return the network of a SanaTransformer2DModel. Raises DataError for one that ours cannot be."""
    return _READER.network(given, lambda _: _config(given), LinearDiT, _tensors)


def _tensors(model: LinearDiT, weights: Weights) -> dict[str, Tensor]:
    config = model.config
    own = weights.ours(_names(config), model.state_dict().keys())
    own |= {mine: weights.get(theirs, 2) for mine, theirs in _tables(config).items()}
    for name in ("patch", *_convolutions(config)):
        own[f"{name}.weight"] = own[f"{name}.weight"].flatten(1)
    return own


def _config(given: Given) -> LinearDiTConfig:
    settings = given.settings
    require_settings(settings, _THEIRS)
    heads, cross_heads = settings["num_attention_heads"], settings["num_cross_attention_heads"]
    scale = settings.get("interpolation_scale")
    width, channels = heads * settings["attention_head_dim"], settings["in_channels"]
    across = settings["cross_attention_dim"], cross_heads * settings["cross_attention_head_dim"]
    if across != (width, width):
        raise ConfigError(f"the attention to texts has widths {across}, the rest {width}")
    return LinearDiTConfig(
        latent_channels=channels,
        latent_size=settings["sample_size"],
        label_dropout=0.1,
        learn_sigma=(settings.get("out_channels") or channels) == 2 * channels,
        time_scale=given.time_scale,
        token_width=settings["caption_channels"],
        patch_size=settings["patch_size"],
        width=width,
        depth=settings["num_layers"],
        heads=heads,
        cross_heads=cross_heads,
        mlp_ratio=settings.get("mlp_ratio", 2.5),
        positions=scale and 1 / scale,
    )


def _convolutions(config: LinearDiTConfig) -> list[str]:
    return [f"blocks.{i}.{name}" for i in range(config.depth) for name in _CONVOLUTIONS]


def _tables(config: LinearDiTConfig) -> dict[str, str]:
    mine, theirs = _TABLES
    return {mine: theirs, **{f"blocks.{i}.{mine}": f"transformer_blocks.{i}.{theirs}" for i in range(config.depth)}}


def _names(config: LinearDiTConfig) -> Names:
    names: dict[str, tuple[str, ...]] = {
        "patch": ("patch_embed.proj",),
        "time.up": ("time_embed.emb.timestep_embedder.linear_1",),
        "time.down": ("time_embed.emb.timestep_embedder.linear_2",),
        "modulation": ("time_embed.linear",),
        "context_up": ("caption_projection.linear_1",),
        "context_down": ("caption_projection.linear_2",),
        "context_norm": ("caption_norm",),
        "final": ("proj_out",),
    }
    for i in range(config.depth):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        names |= {
            f"{ours}.attention.qkv": tuple(f"{theirs}.attn1.to_{letter}" for letter in "qkv"),
            f"{ours}.attention.out": (f"{theirs}.attn1.to_out.0",),
            f"{ours}.cross.q": (f"{theirs}.attn2.to_q",),
            f"{ours}.cross.kv": (f"{theirs}.attn2.to_k", f"{theirs}.attn2.to_v"),
            f"{ours}.cross.out": (f"{theirs}.attn2.to_out.0",),
            f"{ours}.mlp.up": (f"{theirs}.ff.conv_inverted",),
            f"{ours}.mlp.depthwise": (f"{theirs}.ff.conv_depth",),
            f"{ours}.mlp.down": (f"{theirs}.ff.conv_point",),
        }
    return names
