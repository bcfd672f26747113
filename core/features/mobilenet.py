"""MobileNetV2 (Sandler et al. 2018) on ImageNet, with the tensors' names that torchvision's published weights have."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ..files import sha256_file
from ..runs.weights import load_into, read_state_dict
from .extractor import Extractor, resize

WEIGHTS = "mobilenet_v2-b0353104.pth"  # The digits are the start of its sha256.
URL = f"https://download.pytorch.org/models/{WEIGHTS}"
CLASSES = Path(__file__).parent / "builtin" / "imagenet_classes.txt"
SIZE, DIM, NUM_CLASSES = 224, 1280, 1000
REMEDY = f"give the file {WEIGHTS} (14 MB) from {URL}, or another of torchvision's MobileNetV2"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1], as the weights were trained
# Expansion, channels, blocks and first stride of each stage: the paper's table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def convolution(narrow: int, wide: int, size: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolve, normalise, and clip to [0, 6]."""
    conv = nn.Conv2d(narrow, wide, size, stride, size // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(wide), nn.ReLU6())


class InvertedResidual(nn.Module):
    """Widen, convolve each channel by itself, and narrow again without an activation; add x where shapes allow."""

    def __init__(self, narrow: int, wide: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = expansion * narrow
        widen = [convolution(narrow, hidden, size=1)] if expansion > 1 else []
        narrowing = (nn.Conv2d(hidden, wide, 1, bias=False), nn.BatchNorm2d(wide))
        self.conv = nn.Sequential(*widen, convolution(hidden, hidden, stride=stride, groups=hidden), *narrowing)
        self.adds = stride == 1 and narrow == wide

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.adds else y


class MobileNetV2(nn.Module):
    """Images (B, 3, 224, 224) in [-1, 1] → pooled features (B, 1280), logits (B, 1000)."""

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        layers: list[nn.Module] = [convolution(3, channels, stride=2)]
        for expansion, wide, blocks, first_stride in STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(channels, wide, first_stride if block == 0 else 1, expansion))
                channels = wide
        self.features = nn.Sequential(*layers, convolution(channels, DIM, size=1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(DIM, NUM_CLASSES))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = images.new_tensor(MEAN).view(3, 1, 1), images.new_tensor(STD).view(3, 1, 1)
        features = self.features(((images + 1) / 2 - mean) / std).mean((2, 3))
        return features, self.classifier(features)


def open_mobilenet(path: Path, device: torch.device) -> Extractor:
    """Open the network with the weights of a file, or of a folder with `WEIGHTS`. Raises DataError naming the file."""
    file = path / WEIGHTS if path.is_dir() else path
    network = MobileNetV2()
    # The number of batches behind the statistics is not used, and not every file has it.
    counts = {name: count for name, count in network.state_dict().items() if name.endswith("num_batches_tracked")}
    load_into(network, {**counts, **read_state_dict(file, REMEDY)}, file, REMEDY)
    network.eval().requires_grad_(False).to(device)
    names = tuple(CLASSES.read_text(encoding="utf-8").splitlines())

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features, logits = network(resize(images, SIZE))
        return features, logits

    return Extractor("mobilenet-v2", DIM, sha256_file(file), f"bilinear antialias {SIZE}", names, device, run)
