"""The DiT (Peebles & Xie 2023) once more, for the tests: a function of tensors named as in the authors' checkpoints.

Written from the paper's figure 3 and section 3.2, apart from `core.denoisers`: nothing is shared with it.
"""

import argparse
import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm, linear, silu


def positions(width: int, side: int) -> Tensor:
    """The fixed code of a square grid, (side², width): half for the column, half for the row."""
    rates = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    code = np.zeros((side, side, width))
    for row in range(side):
        for column in range(side):
            halves = [np.concatenate([np.sin(at * rates), np.cos(at * rates)]) for at in (column, row)]
            code[row, column] = np.concatenate(halves)
    return torch.from_numpy(code.reshape(side * side, width)).float()


def random_checkpoint(
    width: int = 32,
    depth: int = 2,
    classes: int = 5,
    channels: int = 4,
    patch: int = 2,
    side: int = 8,
    sigma: bool = True,
) -> dict[str, Tensor]:
    """Weights of a small network, at random; the last row of the label table is the null class."""
    generator = torch.Generator().manual_seed(0)
    outputs = patch * patch * channels * (2 if sigma else 1)
    shapes = {
        "x_embedder.proj": (width, channels, patch, patch),
        "t_embedder.mlp.0": (width, 256),
        "t_embedder.mlp.2": (width, width),
        "final_layer.linear": (outputs, width),
        "final_layer.adaLN_modulation.1": (2 * width, width),
    }
    for i in range(depth):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * width, width),
            f"blocks.{i}.attn.proj": (width, width),
            f"blocks.{i}.mlp.fc1": (4 * width, width),
            f"blocks.{i}.mlp.fc2": (width, 4 * width),
            f"blocks.{i}.adaLN_modulation.1": (6 * width, width),
        }
    state = {"pos_embed": positions(width, side // patch)[None]}
    state["y_embedder.embedding_table.weight"] = torch.randn(classes + 1, width, generator=generator)
    for name, shape in shapes.items():
        # As the authors begin: larger weights on sines of up to 1000 radians would show how float32 rounds those.
        std = 0.02 if name == "t_embedder.mlp.0" else 1 / math.sqrt(math.prod(shape[1:]))
        state[f"{name}.weight"] = std * torch.randn(shape, generator=generator)
        state[f"{name}.bias"] = 0.1 * torch.randn(shape[0], generator=generator)
    return state


def training_checkpoint(**shape: Any) -> dict[str, Any]:
    """What the authors' training writes: the averaged weights differ from the others."""
    model = random_checkpoint(**shape)
    averaged = {name: tensor if name == "pos_embed" else 0.9 * tensor for name, tensor in model.items()}
    arguments = argparse.Namespace(model="DiT-S/2", image_size=64)
    return {"model": model, "ema": averaged, "opt": {"state": {}, "param_groups": [{"lr": 1e-4}]}, "args": arguments}


def forward(w: dict[str, Tensor], heads: int, x: Tensor, step: Tensor, label: Tensor) -> Tensor:
    """The network's output for latents x (B, C, H, W) at steps k = 0 … 999."""

    def apply(name: str, value: Tensor) -> Tensor:
        return linear(value, w[f"{name}.weight"], w[f"{name}.bias"])

    patch = w["x_embedder.proj.weight"].shape[-1]
    width = len(w["x_embedder.proj.bias"])
    tokens = conv2d(x, w["x_embedder.proj.weight"], w["x_embedder.proj.bias"], stride=patch)
    side = tokens.shape[-1]
    tokens = tokens.flatten(2).mT + w["pos_embed"]
    angle = step[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    time = apply("t_embedder.mlp.2", silu(apply("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], 1))))
    condition = silu(time + w["y_embedder.embedding_table.weight"][label])
    for i in range(len([name for name in w if name.endswith("attn.qkv.weight")])):
        parts = apply(f"blocks.{i}.adaLN_modulation.1", condition)[:, None].split(width, dim=2)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        h = apply(f"blocks.{i}.attn.qkv", layer_norm(tokens, (width,), eps=1e-6) * (1 + scale) + shift)
        q, k, v = h.reshape(*h.shape[:2], 3, heads, -1).permute(2, 0, 3, 1, 4)
        mixed = (q @ k.mT / math.sqrt(width / heads)).softmax(-1) @ v
        tokens = tokens + gate * apply(f"blocks.{i}.attn.proj", mixed.transpose(1, 2).flatten(2))
        h = apply(f"blocks.{i}.mlp.fc1", layer_norm(tokens, (width,), eps=1e-6) * (1 + scale_mlp) + shift_mlp)
        tokens = tokens + gate_mlp * apply(f"blocks.{i}.mlp.fc2", gelu(h, approximate="tanh"))
    shift, scale = apply("final_layer.adaLN_modulation.1", condition)[:, None].split(width, dim=2)
    out = apply("final_layer.linear", layer_norm(tokens, (width,), eps=1e-6) * (1 + scale) + shift)
    image = torch.zeros(len(x), out.shape[-1] // patch**2, side * patch, side * patch)
    for row in range(side):
        for column in range(side):
            square = out[:, row * side + column].reshape(len(x), patch, patch, -1).permute(0, 3, 1, 2)
            image[:, :, row * patch : (row + 1) * patch, column * patch : (column + 1) * patch] = square
    return image
