"""MobileNetV2 (Sandler et al. 2018) on ImageNet, run from a list of operations in JSON and weights in safetensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import DataError
from ..files import read_json
from ..runs.weights import load_into, read_safetensors, require_file

WEIGHTS = "mobilenet_v2_fp16.safetensors"
GRAPH = "mobilenet_v2_graph.json"
LABELS = "imagenet_labels.txt"
SIZE = 224
DIM = 1280
NUM_CLASSES = 1001
_MOST_PRODUCTS = 3_000_000_000  # multiplications for an image; the network has 0.3 thousand million
REMEDY = f"give the folder that holds {WEIGHTS}, {GRAPH} and {LABELS}, unchanged"

CONVOLUTIONS = ("conv_2d", "depthwise_conv_2d")
KINDS = (*CONVOLUTIONS, "add", "average_pool_2d", "reshape", "softmax")


@dataclass(frozen=True)
class Operation:
    """One line of the graph: which tensors, by number, it reads, and which it writes."""

    kind: str
    inputs: tuple[int, ...]
    output: int
    relu6: bool
    stride: tuple[int, int]
    params: str


class MobileNetV2(nn.Module):
    """The graph as a network. Images (B, 3, 224, 224) in [-1, 1] → pooled features (B, 1280), logits (B, 1001)."""

    def __init__(self, operations: Sequence[Operation], tensors: dict[str, Tensor]) -> None:
        super().__init__()
        self.operations = tuple(operations)
        self.last_use = {tensor: i for i, op in enumerate(operations) for tensor in op.inputs}
        convolutions = {}
        for op in operations:
            if op.kind in CONVOLUTIONS:
                out_channels, in_channels, height, width = tensors[f"{op.params}.weight"].shape
                groups = out_channels if op.kind == "depthwise_conv_2d" else 1
                convolutions[op.params] = nn.Conv2d(
                    in_channels * groups, out_channels, (height, width), op.stride, groups=groups
                )
        self.convolutions = nn.ModuleDict(convolutions)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        values = {0: images}
        features = images
        for i, op in enumerate(self.operations):
            x = values[op.inputs[0]]
            if op.kind in CONVOLUTIONS:
                convolution = self.convolutions[op.params]
                assert isinstance(convolution, nn.Conv2d)
                x = convolution(pad_same(x, convolution.kernel_size, convolution.stride))
            elif op.kind == "add":
                x = x + values[op.inputs[1]]
            elif op.kind == "average_pool_2d":
                x = x.mean((2, 3), keepdim=True)
                features = x.flatten(1)
            elif op.kind == "reshape":
                x = x.flatten(1)
            else:  # The softmax comes last: its input is the logits.
                return features, x
            values[op.output] = x.clamp(0, 6) if op.relu6 else x
            for tensor in op.inputs:
                if self.last_use[tensor] == i:
                    values.pop(tensor, None)
        raise AssertionError("the graph has no softmax")


def pad_same(x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Pad (B, C, H, W) with zeros as TensorFlow's SAME does: the odd pixel at the bottom and right."""
    totals = [
        max((-(-size // step) - 1) * step + width - size, 0)
        for size, width, step in zip(x.shape[-2:], kernel, stride, strict=True)
    ]
    if not any(totals):
        return x
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return F.pad(x, (left, right, top, bottom))


def load_mobilenet(folder: Path) -> tuple[MobileNetV2, tuple[str, ...]]:
    """Read the network and its 1001 class names (0 is background) from a folder. Raises DataError naming the file."""
    graph = read_json(folder / GRAPH, REMEDY)
    tensors = read_safetensors(folder / WEIGHTS, REMEDY)
    try:
        operations = [_operation(described) for described in graph["ops"]]
        with torch.device("meta"):  # Tried on an image without pixels: any graph that is another fails somewhere.
            network = MobileNetV2(operations, tensors)
            features, logits = _tried(network, torch.zeros(1, 3, SIZE, SIZE))
        if (features.shape, logits.shape) != ((1, DIM), (1, NUM_CLASSES)):
            raise ValueError(f"features {tuple(features.shape)}, logits {tuple(logits.shape)}")
    except (LookupError, TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, AssertionError) as error:
        raise DataError(f"{folder / GRAPH} is not the graph of {WEIGHTS}: {error!r}", REMEDY) from None
    prefixed = {f"convolutions.{name}": tensor for name, tensor in tensors.items()}
    load_into(network, prefixed, folder / WEIGHTS, REMEDY, assign=True)
    require_file(folder / LABELS, REMEDY)
    names = tuple((folder / LABELS).read_text(encoding="utf-8", errors="replace").splitlines())
    if len(names) != NUM_CLASSES:
        raise DataError(f"{folder / LABELS} has {len(names)} lines, not {NUM_CLASSES}", REMEDY)
    return network.eval().requires_grad_(False), names


def _tried(network: MobileNetV2, images: Tensor) -> tuple[Tensor, Tensor]:
    """Run a graph on images without pixels. Raises ValueError if with pixels it would take much longer than ours."""
    products = 0

    def count(convolution: nn.Module, _: object, found: Tensor) -> None:
        nonlocal products
        assert isinstance(convolution, nn.Conv2d)
        products += found.numel() * convolution.weight[0].numel()

    hooks = [convolution.register_forward_hook(count) for convolution in network.convolutions.values()]
    found: tuple[Tensor, Tensor] = network(images)
    for hook in hooks:
        hook.remove()
    if products > _MOST_PRODUCTS:
        raise ValueError(f"{products:,} multiplications for an image")
    return found


def _operation(described: dict[str, Any]) -> Operation:
    kind, activation = described["op"], described.get("activation")
    if kind not in KINDS or activation not in (None, "relu6") or described.get("padding", "same") != "same":
        raise ValueError(f"unknown operation {described}")
    height, width = described.get("stride", (1, 1))
    return Operation(
        kind=kind,
        inputs=tuple(int(tensor) for tensor in described["in"]),
        output=int(described["out"]),
        relu6=activation == "relu6",
        stride=(int(height), int(width)),
        params=str(described.get("params", "")),
    )
