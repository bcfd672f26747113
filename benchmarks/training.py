"""A training step of a DiT: forward, backward, AdamW and EMA, against other projects' own code.

All networks have the same sizes and see the same batches. Each project's step is its own: ours is the one of
`ldm train-dit`, with clipping and the finite check besides; the peers' are the lines of their train.py.
"""

import itertools
from pathlib import Path
from typing import Any

import torch

from ldm.core.denoisers.dit import DiT
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.network import DenoiserNetwork
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.system.compile import maybe_compile
from ldm.core.system.memory import keep_freed_memory
from ldm.core.system.precision import resolve
from ldm.core.system.transfer import split_batch
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch, Plan

from . import peer_steps, peers
from .options import Options
from .processes import Variant, Work, compare_processes
from .sizes import NUM_CLASSES, NUM_STEPS, SIZES, Batches, Size

OURS = {
    "ldm, fp32": {"precision": "fp32", "compiled": False},
    "ldm, fp32, compiled": {"precision": "fp32", "compiled": True},
    "ldm, bf16": {"precision": "bf16", "compiled": False},
    "ldm, bf16, compiled": {"precision": "bf16", "compiled": True},
}
FASTEST = "ldm, bf16, compiled"
OBJECTIVE = Denoising(
    schedule("linear", NUM_STEPS), prediction="eps", weighting="snr"
)  # the peers' plain loss of noise
POINT = 10  # steps of whose losses a point of a curve is the mean


def measure(options: Options) -> dict[str, Any]:
    """Compare steps at two sizes, and, at the smaller, the losses over `options.steps` steps with the baseline's."""
    found, missing = peer_steps.available(options.peers, SIZES["tiny"])
    if peers.DIT not in found:
        return {"skipped": missing[peers.DIT]}
    comparisons: dict[str, Any] = {}
    curves: dict[str, Any] = {}
    for name, size in ((name, SIZES[name]) for name in options.sizes):
        variants = {
            peer: Variant(peer_steps.make, {"name": peer, "folder": options.peers, "size": size}) for peer in found
        }
        variants |= {own: Variant(make, {"size": size, **how}) for own, how in OURS.items()}
        title = (
            f"{name}: depth {size.depth}, width {size.width}, {size.heads} heads, {size.side} × {size.side} × 4, "
            f"batch {size.batch}"
        )
        comparisons[title] = compare_processes(variants, options.rounds, baseline=peers.DIT)
        if name == "tiny":
            shown = {f"{peers.DIT}, fp32": peers.DIT, FASTEST: FASTEST}
            compared = {said: losses(variants[each], options.steps) for said, each in shown.items()}
            curves[f"{name}: of each its own network, the same batches"] = compared
    return {"conditions": {"left out": missing or "no peer"}, "comparisons": comparisons, "curves": curves}


def losses(variant: Variant, steps: int) -> list[tuple[int, float]]:
    """Take so many steps, and return after each ten of them their number and mean loss."""
    work = variant.make(**variant.arguments)
    values = torch.tensor([work() for _ in range(steps)], dtype=torch.float64)
    return [
        (min(start + POINT, steps), values[start : start + POINT].mean().item()) for start in range(0, steps, POINT)
    ]


def make(size: Size, precision: str, compiled: bool) -> Work:
    """Return a step of the loop that every stage of `ldm` trains in."""
    keep_freed_memory()
    policy = resolve("cpu", precision)
    torch.manual_seed(0)
    network = DiT(network_config(size))
    maybe_compile(network, compiled, policy.device)
    stepper = Stepper(Denoiser(network, OBJECTIVE), plan(size.batch), policy)
    batches, numbers = Batches(size), itertools.count()

    def step() -> float:
        x0, labels, times, noise = batches.next()
        stepper.step((x0, noise, (times + 1) / NUM_STEPS, labels), next(numbers), 0)
        return stepper.meter.flush()["loss"]

    return step


def network_config(size: Size) -> DiTConfig:
    """Return the network of a size."""
    return DiTConfig(
        latent_channels=4,
        latent_size=size.side,
        patch_size=2,
        width=size.width,
        depth=size.depth,
        heads=size.heads,
        num_classes=NUM_CLASSES,
    )


class Denoiser:
    """A denoiser, for the loop."""

    num_samples = 1
    synchronous = False

    def __init__(self, network: DenoiserNetwork, objective: Denoising) -> None:
        self.modules = self.averaged = network
        self.networks = {"denoiser": network}
        self.objective = objective

    def split(self, data: Any, parts: int) -> list[Any]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        x0, noise, t, given = data
        cond = given if isinstance(given, dict) else {"labels": given}
        return self.objective.loss(self.averaged, x0, {"noise": noise, "t": t}, cond).mean(), {}

    def load(self, batch: Batch) -> Any:
        raise NotImplementedError("the benchmark brings its own batches")

    def after_step(self, accepted: bool) -> None: ...

    def validate(self) -> dict[str, float]:
        return {}

    def picture(self, folder: Path, images_seen: int) -> None: ...


def plan(batch_size: int) -> Plan:
    """Return how long and how to train: without end, and like the peers."""
    return Plan(
        images=10**9,
        batch_size=batch_size,
        accumulate=1,
        lr=peer_steps.LEARNING_RATE,
        warmup=0,
        decay="constant",
        weight_decay=0.0,
        beta1=0.9,
        beta2=0.999,
        clip=1.0,
        ema=peer_steps.EMA,
        checkpoint_every=0,
        keep=2,
        log_every=0,
        validate_every=0,
        tensorboard=False,
        seed=0,
    )
