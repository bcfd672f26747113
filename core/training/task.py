"""What the training loop takes: a plan, batches, and a task with its networks and losses."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from .settings import Train


class Plan(Train):
    """How long and how to train: the user's `train` section, and what else the loop needs to know."""

    seed: int
    picture_every: int = 0
    shard: bool = False
    early: int = 0
    keep_ema: bool = False


@dataclass(frozen=True)
class Batch:
    """A process's samples of a step, and their positions in the stream of images, which all random draws follow from.

    samples, positions: int64 (B,). images_seen: at the start of the step.
    """

    samples: np.ndarray
    positions: np.ndarray
    images_seen: int


class Task(Protocol):
    """What is trained."""

    num_samples: int
    modules: nn.Module  # every tensor that a checkpoint keeps
    averaged: nn.Module  # what the EMA follows
    networks: dict[str, nn.Module]  # by role: each has an AdamW of its own, and steps in this order
    synchronous: bool  # whether `after_step` changes what the next step computes, so that the step cannot be deferred

    def labels(self) -> tuple[np.ndarray, Sequence[str]] | None:
        """Return the class of each sample, int64 (N,), and the names of classes, where there are any."""

    def load(self, batch: Batch) -> Any:
        """Return the batch's tensors, in nested tuples, lists or dicts. Called in a thread, during the step before."""

    def split(self, data: Any, parts: int) -> list[Any]:
        """Split a batch into equal parts, for accumulation; `split_batch` does it where all parts are tensors."""

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return a network's mean loss, and numbers to log. A loss without gradient leaves the network unchanged."""

    def after_step(self, accepted: bool) -> None:
        """Update the task after a step; `accepted` unless it was skipped because a loss or gradient was not finite."""

    def validate(self) -> dict[str, float]:
        """Return numbers on held-out samples; `averaged` holds the EMA meanwhile."""

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write a picture of the current state; `averaged` holds the EMA meanwhile."""
