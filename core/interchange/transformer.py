"""Our DiT as diffusers' DiTTransformer2DModel, and back.

What differs there: each block has a time and a label embedder of its own (the final layer takes the first block's),
queries, keys and values are apart, the null class is always 1000, and the network is given a step k = 0 … where ours is
given the time t. With `ahead` 1, k = s t - 1 (diffusion, s the time scale, as our times are those after a step);
with 0, k = s t (rectified flow). The shift turns each pair of cosine and sine by a constant angle, which the first
linear map after them takes in.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..denoisers.dit import DiT
from ..denoisers.dit_config import DiTConfig
from ..errors import ConfigError, DataError
from .mapping import PARTS, Given, Names, Reader, Weights, network_of_theirs, own_tensors, shape_of, to_theirs
from .scheduler import FLOW
from .stock import Stock

TITLE = "DiT"
PIPELINES = (Stock("DiTPipeline", network="transformer", autoencoder="vae", flow=FLOW),)
NULL_CLASS = 1000  # of DiTPipeline, whatever the number of classes
CLASS_NAMES = ("DiTTransformer2DModel", "Transformer2DModel")  # the second in folders of before the first existed
summary = shape_of
_MLP_RATIO = 4
_OURS = {  # what our config must say
    **dict.fromkeys(("qk_norm", "rope", "swiglu", "rmsnorm"), False),
    "frequencies": 256,
    "frequency_shift": 1,
}
_LARGEST_EPS = 1e-5
_EMBEDDING = "norm1.emb"
_TABLE = f"{_EMBEDDING}.class_embedder.embedding_table.weight"
_THEIRS = {  # what their config must say, where it says anything, to be the DiT of the paper
    "norm_type": "ada_norm_zero",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "norm_elementwise_affine": False,
    "dropout": 0.0,
    "num_embeds_ada_norm": NULL_CLASS,
    "double_self_attention": False,
    "only_cross_attention": False,
    "cross_attention_dim": None,
}
_REMEDY = "give a folder of a class-conditional DiT of a thousand classes or fewer"
_READER = Reader("a DiT", _REMEDY)


def require_expressible(config: DiTConfig) -> None:
    """Raise ConfigError naming the setting that diffusers' DiT does not have."""
    for name, fixed in _OURS.items():
        if getattr(config, name) != fixed:
            raise _inexpressible(name, getattr(config, name), f"has {fixed}")
    if config.size[0] != config.size[1]:
        raise _inexpressible("latent_size", list(config.size), "has square latents only")
    if int(config.width * config.mlp_ratio) > config.width * _MLP_RATIO:
        raise _inexpressible("mlp_ratio", config.mlp_ratio, f"has {_MLP_RATIO}")
    if not config.num_classes:
        raise _inexpressible("num_classes", 0, "takes a label")
    if config.num_classes > NULL_CLASS:
        raise _inexpressible("num_classes", config.num_classes, f"has its null class at {NULL_CLASS}")


def _inexpressible(name: str, value: object, instead: str) -> ConfigError:
    return ConfigError(
        f"{name} {value} of the denoiser cannot be expressed in diffusers' DiTTransformer2DModel, which {instead}",
        "only `ldm sample` draws from this denoiser; train one without for export",
    )


def pipeline(config: DiTConfig) -> Stock:
    """Return the pipeline that draws from the network."""
    return PIPELINES[0]


def to_diffusers(model: DiT, ahead: int = 1) -> nn.Module:
    """Return the same network as a DiTTransformer2DModel, on the CPU, in evaluation mode.

    Unused classes get the null class's embedding; where there is no null class, they and it are NaN, so that guidance
    without one is not mistaken for an image. Raises ConfigError naming a setting that it does not have.
    """
    config = model.config
    require_expressible(config)
    settings = {
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.latent_channels,
        "out_channels": config.out_channels,
        "num_layers": config.depth,
        "sample_size": config.size[0],
        "patch_size": config.patch_size,
        "num_embeds_ada_norm": NULL_CLASS,
        "norm_eps": 1e-6,
    }
    network: Any = network_of_theirs(CLASS_NAMES[0], settings, _their_tensors(model, ahead))
    positions: Any = model.positions
    network.pos_embed.pos_embed = positions.cpu()[None]  # The same table; as it is not a weight, it was not loaded.
    result: nn.Module = network
    return result


def outputs(theirs: Any, config: DiTConfig, x: Tensor, t: Tensor, cond: Mapping[str, Tensor], ahead: int) -> Tensor:
    """Return what the exported network makes of x (B, C, H, W) at t (B,) for a condition."""
    sample: Tensor = theirs(x, t * config.time_scale - ahead, cond["labels"]).sample
    return sample


def _their_tensors(model: DiT, ahead: int) -> dict[str, Tensor]:
    own, config = own_tensors(model, ahead), model.config
    theirs = to_theirs(own, _names(config.depth))
    patch = (config.latent_channels, config.patch_size, config.patch_size)
    theirs["pos_embed.proj.weight"] = theirs["pos_embed.proj.weight"].unflatten(1, patch)
    lacking = config.width * _MLP_RATIO - len(own["blocks.0.mlp.up.bias"])
    for i in range(config.depth):
        block = f"transformer_blocks.{i}."
        theirs |= to_theirs(own, _time_names(i))
        theirs[block + _TABLE] = _padded_table(own["label.table.weight"], config)
        if lacking:  # A narrower MLP is a wide one with hidden units that nothing reaches and that reach nothing.
            for name, dim in {"ff.net.0.proj.weight": 0, "ff.net.0.proj.bias": 0, "ff.net.2.weight": 1}.items():
                tensor = theirs[block + name]
                zeros = tensor.new_zeros([lacking if axis == dim else n for axis, n in enumerate(tensor.shape)])
                theirs[block + name] = torch.cat([tensor, zeros], dim)
    return theirs


def _padded_table(table: Tensor, config: DiTConfig) -> Tensor:
    null = table[-1] if config.has_null else torch.full_like(table[0], torch.nan)
    classes = table[: config.num_classes]
    return torch.cat([classes, null.expand(NULL_CLASS + 1 - len(classes), -1)])


def from_diffusers(given: Given) -> DiT:
    """Return the network of a DiTTransformer2DModel.

    Its classes are those that have names and all that were trained, which unused ones, with the null class's embedding,
    were not. Raises DataError for a network that is not the DiT of the paper, and for embedders that differ from block
    to block.
    """
    return _READER.network(given, lambda weights: _config(given, weights), DiT, _tensors)


def _config(given: Given, weights: Weights) -> DiTConfig:
    settings = given.settings
    _require_paper(settings, given.path)
    heads, depth = _whole(settings, "num_attention_heads", given.path), _whole(settings, "num_layers", given.path)
    width = heads * _whole(settings, "attention_head_dim", given.path)
    channels = _whole(settings, "in_channels", given.path)
    num_classes, has_null = _count_classes(_shared_table(weights, depth), given.num_named)
    return DiTConfig(
        latent_channels=channels,
        latent_size=_whole(settings, "sample_size", given.path),
        patch_size=_whole(settings, "patch_size", given.path),
        width=width,
        depth=depth,
        heads=heads,
        num_classes=num_classes,
        label_dropout=0.1 if has_null else 0.0,
        mlp_ratio=len(weights.get("transformer_blocks.0.ff.net.0.proj.bias")) / width,
        learn_sigma=(settings.get("out_channels") or channels) == 2 * channels,
        time_scale=given.time_scale,
    )


def _tensors(model: DiT, weights: Weights) -> dict[str, Tensor]:
    config, table = model.config, weights.get(f"transformer_blocks.0.{_TABLE}")
    own = weights.ours(_names(config.depth)) | weights.ours(_time_names(0))
    own["patch.weight"] = own["patch.weight"].flatten(1)
    classes = table[: config.num_classes]
    own["label.table.weight"] = torch.cat([classes, table[-1:]]) if config.has_null else classes
    return own


def _names(depth: int) -> Names:
    names: dict[str, tuple[str, ...]] = {"patch": ("pos_embed.proj",)}
    for i in range(depth):
        block = f"transformer_blocks.{i}."
        names |= {
            f"blocks.{i}.attention.qkv": tuple(f"{block}attn1.to_{letter}" for letter in "qkv"),
            f"blocks.{i}.attention.out": (f"{block}attn1.to_out.0",),
            f"blocks.{i}.mlp.up": (f"{block}ff.net.0.proj",),
            f"blocks.{i}.mlp.down": (f"{block}ff.net.2",),
            f"modulation.{i}": (f"{block}norm1.linear",),
        }
    return names | {f"modulation.{depth}": ("proj_out_1",), "final": ("proj_out_2",)}


def _time_names(block: int) -> Names:
    """Return the names of the times' embedder, of which each of their blocks has a copy."""
    start = f"transformer_blocks.{block}.{_EMBEDDING}.timestep_embedder.linear"
    return {"time.up": (f"{start}_1",), "time.down": (f"{start}_2",)}


def _shared_table(given: Weights, depth: int) -> Tensor:
    """Return the label table. It must be the same in each block, as the embedder of the times."""
    times = [f"{name}.{part}" for names in _time_names(0).values() for name in names for part in PARTS]
    for name in (f"transformer_blocks.0.{_TABLE}", *times):
        first = given.get(name).nan_to_num()
        for i in range(1, depth):
            other = name.replace(".0.", f".{i}.", 1)
            if not torch.equal(given.get(other).nan_to_num(), first):
                part = name.split(".", 2)[2]
                raise DataError(
                    f"{given.path}: {part} of block {i} differs from that of block 0; here one serves all blocks",
                    "give a DiT trained with one time and label embedder, as the authors' are",
                )
    table = given.get(f"transformer_blocks.0.{_TABLE}")
    if len(table) != NULL_CLASS + 1:
        raise DataError(f"{given.path} has a table of {len(table)} labels, not {NULL_CLASS + 1}", _REMEDY)
    return table


def _count_classes(table: Tensor, num_named: int) -> tuple[int, bool]:
    """Return how many classes a padded table holds, and whether the null class, its last row, was trained."""
    has_null = not bool(table[-1].isnan().any())
    used = (table != table[-1]).any(dim=1) if has_null else ~table.isnan().any(dim=1)
    used[-1] = False
    trained = int(used.nonzero().max()) + 1 if bool(used.any()) else 1
    return max(trained, num_named), has_null


def _require_paper(settings: Mapping[str, Any], path: Path) -> None:
    for name, expected in _THEIRS.items():
        if settings.get(name, expected) != expected:
            raise DataError(f"{path.parent}: {name} is {settings[name]!r}, not {expected!r} as in the DiT", _REMEDY)
    eps = settings.get("norm_eps", _LARGEST_EPS)  # The library's default is ten times the authors'; 1e-5 of a variance.
    if not isinstance(eps, float) or not 0 < eps <= _LARGEST_EPS:
        raise DataError(f"{path.parent}: norm_eps is {eps!r}, not 1e-06 as in the DiT", _REMEDY)


def _whole(settings: Mapping[str, Any], name: str, path: Path) -> int:
    value = settings.get(name)
    if type(value) is not int or value < 1:
        raise DataError(f"{path.parent}: {name} is {value!r}, not a positive number", _REMEDY)
    return value
