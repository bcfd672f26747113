"""LPIPS, a learned distance between images (Zhang et al. 2018), version 0.1, on a SqueezeNet 1.1 trunk.

The distance is a weighted squared difference of channel-normalised features after seven of the trunk's layers. The
weights come from two published files, known by their hashes, in a folder of the user's.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..colours import in_rgb
from ..errors import ConfigError
from ..runs.weights import load_into, read_known_pth
from .blocks import channels_last
from .settings import SMALLEST_FOR_LPIPS

TRUNK = "squeeze.backbone.pth"
HEADS = "v0.1_squeeze.pth"
SHA256 = {
    TRUNK: "435cedb387e95bc8291893f61a3a64f0345b8c23a05139aceef43947efb3d52d",
    HEADS: "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
}
_REMEDY = (
    f"take {HEADS} from github.com/richzhang/PerceptualSimilarity (lpips/weights/v0.1/squeeze.pth) and {TRUNK} from"
    " github.com/delldu/LPIPS, or leave LPIPS out"
)
# Index of the trunk's layer after which features are compared, and how many channels they have.
_TAPS = {1: 64, 4: 128, 7: 256, 9: 384, 10: 384, 11: 512, 12: 512}
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)


class LPIPS(nn.Module):
    """The distance, frozen. Raises DataError naming the file if the weights are missing or others.

    folder: holds `squeeze.backbone.pth` and `v0.1_squeeze.pth`. size: side in pixels to which the shorter one of images
    is resized before they are compared (Song et al. 2023, Consistency models: 224); None compares them as they are.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, folder: Path, size: int | None = None) -> None:
        super().__init__()
        self.size = size
        trunk = read_known_pth(folder / TRUNK, SHA256[TRUNK], _REMEDY)
        heads = read_known_pth(folder / HEADS, SHA256[HEADS], _REMEDY)
        self.trunk = _trunk()
        self.heads = nn.ModuleList(nn.Conv2d(width, 1, 1, bias=False) for width in _TAPS.values())
        load_into(self.trunk, trunk, folder / TRUNK, _REMEDY)
        renamed = {f"{number}.weight": heads[f"lin{number}.model.1.weight"] for number in range(len(_TAPS))}
        load_into(self.heads, renamed, folder / HEADS, _REMEDY)
        self.register_buffer("shift", torch.tensor(_SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(_SCALE)[:, None, None])
        channels_last(self)
        self.eval().requires_grad_(False)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (B,) >= 0, float32, between images (B, C, H, W) in [-1, 1], in colour or grey.

        Differentiable in both. Raises ConfigError for sides under 17 pixels, of which the trunk leaves nothing.
        """
        a, b = self._resize(a), self._resize(b)
        if min(a.shape[-2:]) < SMALLEST_FOR_LPIPS:
            raise ConfigError(
                f"LPIPS needs images of at least {SMALLEST_FOR_LPIPS} pixels, not {min(a.shape[-2:])}",
                "use a larger `data.image_size`, or for training `loss.lpips_size`, or leave LPIPS out",
            )
        distance = torch.zeros(len(a), device=a.device)
        for head, of_a, of_b in zip(self.heads, self._features(a), self._features(b), strict=True):
            difference = (_unit(of_a) - _unit(of_b)).square()
            distance = distance + head(difference).float().mean(dim=(1, 2, 3))
        return distance

    def _resize(self, images: Tensor) -> Tensor:
        """Return images whose shorter side is `size`, bilinear; as they are without one."""
        height, width = images.shape[-2:]
        shorter = min(height, width)
        if self.size is None or self.size == shorter:
            return images
        sides = [round(side * self.size / shorter) for side in (height, width)]
        return F.interpolate(images.float(), sides, mode="bilinear", antialias=self.size < shorter, align_corners=False)

    def _features(self, images: Tensor) -> list[Tensor]:
        h, features = (in_rgb(images) - self.shift) / self.scale, []
        for index, layer in enumerate(self.trunk):
            h = layer(h)
            if index in _TAPS:
                features.append(h.float())
        return features


class Fire(nn.Module):
    """Few channels by 1×1, then many by 1×1 beside 3×3 (Iandola et al. 2016, SqueezeNet)."""

    def __init__(self, in_channels: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(in_channels, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(h)), F.relu(self.expand3x3(h))], dim=1)


def _trunk() -> nn.Sequential:
    def pool() -> nn.MaxPool2d:
        return nn.MaxPool2d(3, stride=2, ceil_mode=True)

    return nn.Sequential(
        nn.Conv2d(3, 64, 3, stride=2),
        nn.ReLU(),
        pool(),
        Fire(64, 16, 64),
        Fire(128, 16, 64),
        pool(),
        Fire(128, 32, 128),
        Fire(256, 32, 128),
        pool(),
        Fire(256, 48, 192),
        Fire(384, 48, 192),
        Fire(384, 64, 256),
        Fire(512, 64, 256),
    )


def _unit(features: Tensor) -> Tensor:
    """Scale each position's channels to unit length; where all are zero, leave zeros with a finite gradient."""
    return features * torch.rsqrt(features.square().sum(dim=1, keepdim=True) + 1e-20)
