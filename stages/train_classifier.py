"""`ldm train-classifier`: labelled images in, a small classifier out, whose features judge samples."""

from typing import Any

import torch
from torch import nn

from ..core import parallel, seeds
from ..core.artifacts import MANIFEST
from ..core.data.images import as_tensor
from ..core.data.loading import ImageLoader
from ..core.errors import DataError
from ..core.metrics import classifier
from ..core.precision import Policy
from ..core.progress import Outcome, Progress
from ..core.training import loop
from ..core.transfer import sent
from .configs import TrainClassifier
from .handover import autoencoder_artifact, claim, command_line, inherit_data, occupied, output_folder
from .image_sets import ImageSets, image_sources
from .noisy_classifier import train_noisy_classifier


def run(config: TrainClassifier, progress: Progress) -> Outcome:
    """Train a classifier on a run's images or others, or on its noisy latents. Returns where it lies."""
    if config.noisy:
        return train_noisy_classifier(config, progress)
    folder = output_folder(config, "train-classifier")
    with occupied(folder, config.machine, config.train) as policy:
        if (config.root / "vqvae" / MANIFEST).exists():
            config = inherit_data(config, autoencoder_artifact(config.root / "vqvae", config))
        sources = image_sources(config.data)
        if len(sources.train.class_names) < 2:
            raise DataError(
                f"{sources.train.location} has one class: there is nothing to tell apart", "give labelled images"
            )
        work = claim(folder, "train-classifier", config, sources.inputs)
        next_commands = [command_line("eval", config)]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        images = sources.read(progress)
        task = ClassifyingTask(config, images, policy)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed)
        facts = loop.train(task, plan, policy, folder, progress)
        if not parallel.world().leads:
            return Outcome(folder)
        facts["accuracy"] = task.validate()["val_accuracy"]
        facts["class_names"] = list(images.class_names)
        classifier.save(task.network, folder / "final", images.class_names, {"accuracy": facts["accuracy"]})
        work.commit(["final/model.safetensors", "final/config.json"], facts)
    summary = {"validation accuracy": f"{facts['accuracy']:.2%} of {len(images.val):,} images"}
    return Outcome(folder, summary=summary, pictures=[folder / "loss.png"], next_commands=next_commands)


class ClassifyingTask:
    """Cross-entropy on shifted (and, where the data allows, mirrored) images, as `core.training.loop` trains it."""

    def __init__(self, config: TrainClassifier, images: ImageSets, policy: Policy) -> None:
        self.config, self.images, self.policy = config, images, policy
        self.num_samples = len(images.train)
        seeds.seed_everything(config.seed, "classifier weights")
        network = classifier.Classifier(classifier.config_for(len(images.class_names), config.data.image_size))
        self.network = network.to(policy.device)
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.players: dict[str, nn.Module] = {"classifier": self.network}
        self.heeds_verdicts = False

    def load(self, batch: loop.Batch) -> tuple[torch.Tensor, ...]:
        """Return images, labels and offsets."""
        seed, reach = self.config.seed, self.config.max_shift
        images = as_tensor(self.images.train.batch(batch.samples))
        if self.config.data.flip:
            mirrored = seeds.uniform(seed, "flip", batch.positions) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        offsets = seeds.integers(seed, "shift", batch.positions, 2 * reach + 1, 2) - reach
        labels = torch.from_numpy(self.images.train.labels[batch.samples])
        return images, labels, torch.from_numpy(offsets)

    def split(self, data: tuple[torch.Tensor, ...], parts: int) -> list[Any]:
        return list(zip(*(tensor.chunk(parts) for tensor in data), strict=True))

    def loss(self, player: str, data: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        images, labels, offsets = (sent(tensor, self.policy.device) for tensor in data)
        return classifier.classification_loss(self.network, images, labels, offsets), {}

    def stepped(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    def validate(self) -> dict[str, float]:
        """Return the share of held-out images that are read as their class, and their cross-entropy."""
        right, total = accuracy_and_loss(self.network, self.images.val, self.policy)
        return {"val_accuracy": right, "val_loss": total}

    def picture(self, folder: Any, images_seen: int) -> None:
        """A classifier draws nothing."""


@torch.no_grad()
def accuracy_and_loss(network: nn.Module, images: ImageLoader, policy: Policy) -> tuple[float, float]:
    """Return top-1 accuracy and mean cross-entropy over all images."""
    right, total = 0, 0.0
    for indices, pixels in images.in_turn(256):
        labels = torch.from_numpy(images.labels[indices]).to(policy.device)
        with policy.autocast():
            logits = network(as_tensor(pixels).to(policy.device)).float()
        right += int((logits.argmax(1) == labels).sum())
        total += float(nn.functional.cross_entropy(logits, labels, reduction="sum"))
    return right / len(images), total / len(images)
