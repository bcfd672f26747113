"""Checkpoints of the DiT authors' code (github.com/facebookresearch/DiT) as our DiT.

Read without running anything in them: tensors, numbers and text, and the plain namespace of arguments that training
stores beside them. Their diffusion has 1000 linear steps k = 0 … 999, where t is ours at (k + 1) / 1000, and predicts
the noise; the null class is the last of the label table.
"""

from pathlib import Path

import torch

from ..denoisers.dit import DiT
from ..denoisers.dit_config import DiTConfig
from ..denoisers.layers import sincos_positions
from ..errors import ConfigError, DataError
from ..runs.weights import read_state_dict
from .mapping import PARTS, Names, Reader, Weights
from .scheduler import Process

PROCESS = Process("linear", 1000, False, "eps", 1000.0, ahead=1)
_HEADS = {(384, 12): 6, (768, 12): 12, (1024, 24): 16, (1152, 28): 16}  # by width and depth: DiT-S, B, L, XL
_TABLE = "y_embedder.embedding_table.weight"
_REMEDY = "give a checkpoint of facebookresearch/DiT: its class-conditional DiT-S, B, L or XL"
_READER = Reader("a DiT", _REMEDY)


def load_dit(path: Path, heads: int | None = None, num_classes: int | None = None) -> DiT:
    """Load a checkpoint; its shapes tell everything but the heads, which follow for the four published sizes.

    num_classes: if it is the number of rows in the label table, there is no null class; by default one less. Raises
    DataError naming the file and tensor that do not fit, ConfigError where the heads must be given.
    """
    tensors = {name: tensor.detach().float() for name, tensor in read_state_dict(path, _REMEDY).items()}
    given = Weights(tensors, path, _REMEDY)
    config = _config(given, heads, num_classes)
    positions, names = given.get("pos_embed")[0], _names(config.depth)
    if not torch.allclose(positions, sincos_positions(config.width, config.grid), atol=1e-4):
        raise DataError(f"{path}: pos_embed is not the fixed table of sines and cosines", _REMEDY)
    own = given.ours(names)
    own["patch.weight"] = own["patch.weight"].flatten(1)
    own["label.table.weight"] = given.get(_TABLE)
    known = {f"{name}.{part}" for theirs in names.values() for name in theirs for part in PARTS}
    if unknown := tensors.keys() - known - {"pos_embed", _TABLE}:
        raise DataError(f"{path} has {min(unknown)}, which a DiT does not", _REMEDY)
    return _READER.filled(config, DiT, lambda _: own, path, PROCESS.ahead)


def _config(given: Weights, heads: int | None, num_classes: int | None) -> DiTConfig:
    path = given.path
    patches = given.get("x_embedder.proj.weight", dims=4)
    width, channels, patch = patches.shape[:3]
    depth = len({name.split(".")[1] for name in given.tensors if name.startswith("blocks.")})
    heads = heads or _HEADS.get((width, depth))
    if heads is None:
        raise ConfigError(
            f"{path} has width {width} and depth {depth}, which no published DiT has: its number of heads is unknown",
            "add `heads=N`",
        )
    num_tokens = given.get("pos_embed", dims=3).shape[1]
    side = int(num_tokens**0.5)
    rows = len(given.get(_TABLE, dims=2))
    if num_classes is not None and num_classes not in (rows, rows - 1):
        raise ConfigError(
            f"`num_classes={num_classes}` does not fit {path}, whose label table has {rows} rows",
            f"give {rows - 1} if the last one is the null class, {rows} if there is none",
        )
    outputs = len(given.get("final_layer.linear.bias"))
    if outputs not in (patch**2 * channels, 2 * patch**2 * channels) or side**2 != num_tokens:
        raise DataError(f"{path}: {num_tokens} tokens of {outputs} outputs are no DiT on {channels} channels", _REMEDY)
    hidden = len(given.get("blocks.0.mlp.fc1.bias"))
    try:
        return DiTConfig(
            latent_channels=channels,
            latent_size=side * patch,
            patch_size=patch,
            width=width,
            depth=depth,
            heads=heads,
            num_classes=num_classes or rows - 1,
            label_dropout=0.0 if num_classes == rows else 0.1,
            mlp_ratio=hidden / width,
            learn_sigma=outputs == 2 * patch**2 * channels,
            frequencies=given.get("t_embedder.mlp.0.weight", dims=2).shape[1],
            frequency_shift=0,
        )
    except ConfigError as error:
        raise DataError(f"{path} does not hold a DiT: {error.message}", _REMEDY) from None


def _names(depth: int) -> Names:
    layers = {"patch": "x_embedder.proj", "time.up": "t_embedder.mlp.0", "time.down": "t_embedder.mlp.2"}
    for i in range(depth):
        layers |= {
            f"blocks.{i}.attention.qkv": f"blocks.{i}.attn.qkv",
            f"blocks.{i}.attention.out": f"blocks.{i}.attn.proj",
            f"blocks.{i}.mlp.up": f"blocks.{i}.mlp.fc1",
            f"blocks.{i}.mlp.down": f"blocks.{i}.mlp.fc2",
            f"modulation.{i}": f"blocks.{i}.adaLN_modulation.1",
        }
    layers |= {f"modulation.{depth}": "final_layer.adaLN_modulation.1", "final": "final_layer.linear"}
    return {mine: (theirs,) for mine, theirs in layers.items()}
