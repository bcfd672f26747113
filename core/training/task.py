"""What a training is: its plan, its batches, and the task that brings networks and losses."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn


@dataclass(frozen=True)
class Plan:
    """How long and how to train: the fields of the user's `train` section, and the seed."""

    images: int
    batch_size: int
    accumulate: int
    lr: float
    warmup: int
    decay: str
    weight_decay: float
    beta1: float
    beta2: float
    clip: float
    ema: float
    checkpoint_every: int
    keep: int
    log_every: int
    validate_every: int
    tensorboard: bool
    seed: int
    picture_every: int = 0
    shard: bool = False


@dataclass(frozen=True)
class Batch:
    """Which samples a process takes in a step, and their positions in the stream, from which their draws follow."""

    samples: np.ndarray
    positions: np.ndarray
    images_seen: int


class Task(Protocol):
    """What is trained. `modules` holds every tensor that a checkpoint keeps; `averaged` is what the EMA follows."""

    modules: nn.Module
    averaged: nn.Module
    num_samples: int
    networks: dict[str, nn.Module]  # one optimizer each, after_step in this order
    synchronous: bool  # whether `after_step` changes what the next step computes, which then has to wait for it

    def load(self, batch: Batch) -> Any:
        """Return the batch's tensors; called ahead of time in a thread."""

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return a role's mean loss over the data, and numbers to log; without gradient, the role sits out."""

    def split(self, data: Any, parts: int) -> list[Any]:
        """Split a batch's tensors into equal parts, for accumulation."""

    def after_step(self, accepted: bool) -> None:
        """Called after every step; `accepted` unless its losses or gradients were not finite and it was skipped."""

    def validate(self) -> dict[str, float]:
        """Return numbers on held-out samples; `averaged` holds the EMA meanwhile."""

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write a picture of the present state; `averaged` holds the EMA meanwhile."""
