"""A training step as each of the other projects takes it: their networks, losses and averages, from their checkouts."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import peers
from .processes import Work
from .sizes import NUM_CLASSES, Batches, Size

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""(x0, labels, times of 0 … 999, noise) → the batch's loss."""

LEARNING_RATE, EMA = 1e-4, 0.999


def dit(folder: Path, size: Size, name: str = peers.DIT) -> tuple[nn.Module, Loss]:
    """facebookresearch/DiT, and fast-DiT, which recomputes activations in the backward pass."""
    network = peers.load(folder, name, "models").DiT(**shape_of(size), learn_sigma=False)
    diffusion = peers.load(folder, name, "diffusion").create_diffusion("", learn_sigma=False)

    def loss(x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return diffusion.training_losses(network, x0, t, {"y": labels}, noise)["loss"].mean()

    return network, loss


def sit(folder: Path, size: Size) -> tuple[nn.Module, Loss]:
    """willisma/SiT: it draws times and noise itself."""
    network = peers.load(folder, peers.SIT, "models").SiT(**shape_of(size), learn_sigma=False)
    transport = peers.load(folder, peers.SIT, "transport").create_transport()

    def loss(x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return transport.training_losses(network, x0, {"y": labels})["loss"].mean()

    return network, loss


def lightning_dit(folder: Path, size: Size) -> tuple[nn.Module, Loss]:
    """hustvl/LightningDiT, without the options that make it another network; it draws times and noise itself."""
    models = peers.load(folder, peers.LIGHTNING_DIT, "models.lightningdit")
    network = models.LightningDiT(**shape_of(size), learn_sigma=False)
    transport = peers.load(folder, peers.LIGHTNING_DIT, "transport").create_transport()

    def loss(x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        return transport.training_losses(network, x0, {"y": labels})["loss"].mean()

    return network, loss


def diffusers(folder: Path, size: Size) -> tuple[nn.Module, Loss]:
    """diffusers' DiTTransformer2DModel with the loss of its training examples."""
    from diffusers import DDPMScheduler

    network = diffusers_network(size)
    scheduler = DDPMScheduler(num_train_timesteps=1000)

    def loss(x0: Tensor, labels: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        output = network(scheduler.add_noise(x0, noise, t), timestep=t, class_labels=labels).sample
        return torch.nn.functional.mse_loss(output.float(), noise)

    return network, loss


def diffusers_network(size: Size) -> nn.Module:
    """Return diffusers' DiTTransformer2DModel, one output for each channel."""
    from diffusers import DiTTransformer2DModel

    network: nn.Module = DiTTransformer2DModel(
        num_attention_heads=size.heads,
        attention_head_dim=size.width // size.heads,
        num_layers=size.depth,
        in_channels=4,
        sample_size=size.side,
        patch_size=2,
        num_embeds_ada_norm=NUM_CLASSES,
    )
    return network


PEERS: dict[str, tuple[Callable[..., tuple[nn.Module, Loss]], dict[str, Any]]] = {
    "DiT": (dit, {}),
    "DiT, bf16 autocast": (dit, {}),
    "DiT, bf16 autocast, compiled": (dit, {}),
    "fast-DiT": (dit, {"name": peers.FAST_DIT}),
    "fast-DiT, bf16 autocast": (dit, {"name": peers.FAST_DIT}),
    "SiT": (sit, {}),
    "LightningDiT": (lightning_dit, {}),
    "LightningDiT, bf16 autocast": (lightning_dit, {}),
    "diffusers": (diffusers, {}),
    "diffusers, bf16 autocast": (diffusers, {}),
}


def available(folder: Path, size: Size) -> tuple[list[str], dict[str, str]]:
    """Return which peers can be had here, and why the others cannot."""
    found, missing = [], {}
    for name, (build, options) in PEERS.items():
        try:
            build(folder, size, **options)
            found.append(name)
        except (peers.PeerAbsentError, ImportError) as error:
            missing[name] = str(error)
    return found, missing


def make(name: str, folder: Path, size: Size) -> Work:
    """Return a peer's step: its loss, AdamW, and the EMA parameter by parameter, as their train.py have."""
    torch.manual_seed(0)
    build, options = PEERS[name]
    network, loss = build(folder, size, **options)
    network.train()
    if name.endswith("compiled"):
        network.compile()
    averaged = _average(network, name)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0)
    batches = Batches(size)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled="bf16" in name):
            value = loss(*batches.next())
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        averaged()
        return value.item()

    return step


def _average(network: nn.Module, name: str) -> Callable[[], None]:
    if name.startswith("diffusers"):
        from diffusers.training_utils import EMAModel

        ema = EMAModel(network.parameters(), decay=EMA)
        return lambda: ema.step(network.parameters())
    average = copy.deepcopy(network).requires_grad_(False)

    @torch.no_grad()
    def update() -> None:
        own = dict(network.named_parameters())
        for key, mean in average.named_parameters():
            mean.mul_(EMA).add_(own[key].data, alpha=1 - EMA)

    return update


def shape_of(size: Size) -> dict[str, int]:
    """Return what the DiT family calls a size, for ten classes."""
    return {
        "input_size": size.side,
        "patch_size": 2,
        "in_channels": 4,
        "hidden_size": size.width,
        "depth": size.depth,
        "num_heads": size.heads,
        "num_classes": NUM_CLASSES,
    }
