"""A classifier of images, as the loop trains it."""

from typing import Any

import numpy as np
import torch
from torch import nn

from ... import seeds
from ...colours import in_rgb
from ...features import classifier
from ...features.extractor import resize
from ...images.decode import as_tensor
from ...images.loader import ImageLoader, training_images
from ...images.sets import ImageSets
from ...system.precision import Policy
from ...system.transfer import split_batch, to_device
from ...training import loop
from .settings import ClassifierTraining


class ClassifyingTask:
    """Cross-entropy on shifted (and, where the data allows, mirrored) images, as `core.training.loop` trains it."""

    def __init__(self, config: ClassifierTraining, images: ImageSets, policy: Policy) -> None:
        self.config, self.images, self.policy = config, images, policy
        self.num_samples = len(images.train)
        seeds.seed_everything(config.seed, "classifier weights")
        self.side = max(config.data.size)
        network = classifier.Classifier(classifier.config_for(len(images.class_names), self.side))
        self.network = network.to(policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"classifier": self.network}
        self.synchronous = False

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the classes of the images."""
        source = self.images.train.source
        return (source.labels, source.class_names) if source.labelled else None

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, ...]:
        """Return images, labels and offsets."""
        seed, reach = self.config.seed, self.config.max_shift
        # Mirrored only where the data allows it, unlike digits. Shifts are uniform in [-reach, reach].
        images = training_images(self.images.train, batch.samples, batch.positions, seed, self.config.data.flip)
        offsets = seeds.integers(seed, "shift", batch.positions, 2 * reach + 1, 2) - reach
        labels = torch.from_numpy(self.images.train.labels[batch.samples])
        return resize(in_rgb(images), self.side), labels, torch.from_numpy(offsets)

    def split(self, data: tuple[torch.Tensor, ...], parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, labels, offsets = (to_device(tensor, self.policy.device) for tensor in data)
        return classifier.classification_loss(self.network, images, labels, offsets), {}

    def after_step(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    def validate(self) -> dict[str, float]:
        """Return accuracy and cross-entropy on held-out images."""
        right, total = accuracy_and_loss(self.network, self.images.val, self.policy, self.side)
        return {"val_accuracy": right, "val_loss": total}

    def picture(self, folder: Any, images_seen: int) -> None:
        """A classifier draws nothing."""


@torch.no_grad()
def accuracy_and_loss(network: nn.Module, images: ImageLoader, policy: Policy, side: int) -> tuple[float, float]:
    """Return top-1 accuracy and mean cross-entropy over all images, which become squares."""
    right, total = 0, 0.0
    for indices, pixels in images.in_turn(256):
        labels = torch.from_numpy(images.labels[indices]).to(policy.device)
        with policy.autocast():
            logits = network(resize(in_rgb(as_tensor(pixels)), side).to(policy.device)).float()
        right += int((logits.argmax(1) == labels).sum())
        total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return right / len(images), total / len(images)
