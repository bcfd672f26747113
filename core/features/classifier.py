"""A small convolutional classifier, trained on the reference images: a run's default extractor.

Legend of shapes: B images, C channels, H W pixels, K classes, D features.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from ..errors import ConfigError, DataError
from ..files import sha256_file
from ..progress import Progress
from ..runs.weights import CONFIG, WEIGHTS, load_into, read_description, read_weights, save_network
from ..settings.families import NetworkConfig
from .extractor import Extractor, resize

KIND = "classifier"
NETWORKS = (KIND,)  # the kinds that `load` reads
GROUPS = 8  # of GroupNorm; they divide every width
REMEDY = "give the folder of a whole classifier"
WEAK = 0.8  # Of held-out real images, a classifier that reads fewer says little about samples.


class ClassifierConfig(NetworkConfig):
    """What the network is: every entry of `channels` halves the resolution and is the width from there on."""

    num_classes: int = Field(ge=1, le=2**16)
    image_size: int = Field(ge=1, le=4096)  # as data.image_size allows
    in_channels: int = Field(default=3, ge=1, le=2**16)
    channels: tuple[Annotated[int, Field(ge=8, le=2**16, multiple_of=GROUPS)], ...] = Field(
        default=(32, 64, 128), min_length=1, max_length=16
    )
    dropout: float = Field(default=0.0, ge=0, lt=1)


def config_for(num_classes: int, image_size: int, in_channels: int = 3) -> ClassifierConfig:
    """Choose a network whose last map is about 4 pixels wide: 28 px → 128 features, 64 px and more → 256."""
    halvings = max(3, min(5, math.ceil(math.log2(image_size / 4))))
    channels = tuple(min(256, 32 * 2**i) for i in range(halvings))
    return ClassifierConfig(num_classes=num_classes, image_size=image_size, in_channels=in_channels, channels=channels)


class Residual(nn.Module):
    """x + conv(relu(norm(x))) (He et al. 2016, Identity Mappings, with one convolution). Keeps (B, C, H, W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, channels)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(F.relu(self.norm(x)))


class Classifier(nn.Module):
    """Images (B, C, H, W) in [-1, 1] → logits (B, K). Group normalisation: no image depends on its batch."""

    class_axes: ClassVar[dict[str, int]] = {"head.weight": 0, "head.bias": 0}

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        last = config.channels[-1]
        stages: list[nn.Module] = []
        for narrow, wide in zip((config.in_channels, *config.channels[:-1]), config.channels, strict=True):
            halve = nn.Conv2d(narrow, wide, 3, stride=2, padding=1)
            stages += [halve, nn.GroupNorm(GROUPS, wide), nn.ReLU(), Residual(wide)]
        self.stages = nn.Sequential(*stages)
        self.norm = nn.GroupNorm(GROUPS, last)
        self.dropout = nn.Dropout(config.dropout)
        self.head = nn.Linear(last, config.num_classes)

    @property
    def dim(self) -> int:
        """The number of features D."""
        return self.config.channels[-1]

    def features(self, images: Tensor) -> Tensor:
        """Return the pooled features (B, D) that the linear head reads."""
        x = self.stages(images)
        return F.relu(self.norm(x)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.features(images)))
        return logits


def classification_loss(classifier: nn.Module, images: Tensor, labels: Tensor, offsets: Tensor | None = None) -> Tensor:
    """Return the mean cross-entropy of a batch, the images moved by `offsets` first where given.

    images (B, C, H, W) in [-1, 1]; labels int64 (B,) in 0..K-1; offsets int64 (B, 2), see `shift`. Returns a scalar.
    """
    if offsets is not None:
        images = shift(images, offsets)
    return F.cross_entropy(classifier(images), labels)


def random_offsets(count: int, max_shift: int, generator: torch.Generator) -> Tensor:
    """Draw the offset of each of `count` images, int64 (count, 2) in -max_shift..max_shift, on the CPU."""
    return torch.randint(-max_shift, max_shift + 1, (count, 2), generator=generator)


def shift(images: Tensor, offsets: Tensor) -> Tensor:
    """Move each image by its own (down, right) offset in pixels; repeated border pixels fill the gap.

    images (B, C, H, W); offsets int64 (B, 2). Returns the same shape.
    """
    b, _, height, width = images.shape
    offsets = offsets.to(images.device)
    rows = (torch.arange(height, device=images.device) - offsets[:, :1]).clamp(0, height - 1)
    columns = (torch.arange(width, device=images.device) - offsets[:, 1:]).clamp(0, width - 1)
    batch = torch.arange(b, device=images.device)[:, None, None]
    # Indexing around the channel axis puts it last: (B, H, W, C).
    return images[batch, :, rows[:, :, None], columns[:, None, :]].movedim(-1, 1).contiguous()


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier read from its folder, frozen."""

    network: Classifier
    class_names: tuple[str, ...]
    weights_sha256: str
    extra: Mapping[str, Any]


def save(
    classifier: Classifier, folder: Path, class_names: Sequence[str], extra: Mapping[str, Any] | None = None
) -> None:
    """Write a classifier's folder, in the layout of `core.runs.weights`.

    extra: stored with the weights (JSON), such as the accuracy reached.
    """
    assert len(class_names) == classifier.config.num_classes, "one name per class"
    described = {"class_names": list(class_names), "extra": dict(extra or {})}
    save_network(classifier, folder, KIND, classifier.config.model_dump(mode="json"), **described)


def load(folder: Path) -> SavedClassifier:
    """Read what `save` wrote; the network is frozen and in evaluation mode.

    Raises DataError naming the file that is missing, damaged or of another kind.
    """
    described = read_description(folder, (KIND,), REMEDY)
    try:
        config = ClassifierConfig.from_json(described["config"])
        names = described.get("class_names")
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ConfigError("its class_names are not a list of names")
        if len(names) != config.num_classes:
            raise ConfigError(f"{len(names)} class names for {config.num_classes} classes")
        if not isinstance(described.get("extra", {}), dict):
            raise ConfigError("its extra is not a table")
    except ConfigError as error:
        raise DataError(f"{folder / CONFIG} is damaged: {error}", REMEDY) from None
    with torch.device("meta"):  # where a damaged size allocates no memory
        network = Classifier(config)
    load_into(network, read_weights(folder, described, REMEDY), folder / WEIGHTS, REMEDY, assign=True)
    network.eval().requires_grad_(False)
    return SavedClassifier(network, tuple(names), sha256_file(folder / WEIGHTS), described.get("extra", {}))


def open_classifier(folder: Path, device: torch.device) -> Extractor:
    """Open a saved classifier as a feature extractor. Raises DataError as `load` does, and for one of latents."""
    saved = load(folder)
    network, size = saved.network.to(device), saved.network.config.image_size
    if network.config.in_channels != 3:
        raise DataError(f"{folder} classifies {network.config.in_channels}-channel input, not images", REMEDY)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        features = network.features(resize(images, size))
        return features, network.head(features)

    described, accuracy = f"bilinear antialias {size}", saved.extra.get("accuracy")
    known = accuracy if isinstance(accuracy, float) else None
    return Extractor(KIND, network.dim, saved.weights_sha256, described, saved.class_names, device, run, known)


def warn_if_weak(accuracy: float, name: str, progress: Progress) -> None:
    """Warn where a classifier reads too few held-out real images as their class to say much about samples."""
    if accuracy < WEAK:
        progress.warn(
            f"the {name} reads {accuracy:.1%} of held-out real images as their class, fewer than {WEAK:.0%}: what it"
            " says of samples is inexact; train it longer, or on more images"
        )
