"""Images drawn with classifier-free guidance by DDIM, against other projects' own paths to the same number of them.

Networks have the same sizes, weights as initialised, and the same number of steps; decoding is left out. The peers'
paths are those of their sample.py; ours is that of `ldm sample`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers.dit import DiT
from ldm.core.pipeline.generation import Sampling, generate
from ldm.core.pipeline.model import Model
from ldm.core.pipeline.settings import Diffusion
from ldm.core.system.compile import maybe_compile
from ldm.core.system.memory import keep_freed_memory
from ldm.core.system.precision import for_inference, resolve

from . import peers
from .options import Options
from .peer_steps import diffusers_network, shape_of
from .processes import Variant, Work, compare_processes
from .sizes import NUM_CLASSES, NUM_STEPS, SIZES, Size
from .training import network_config

CFG = 3.0
INTERVAL = (0.2, 0.8)
OURS: dict[str, dict[str, Any]] = {
    "ldm, fp32": {"precision": "fp32"},
    "ldm, bf16": {"precision": "bf16"},
    "ldm, bf16, compiled": {"precision": "bf16", "compiled": True},
    "ldm, bf16, compiled, guided from 0.2 to 0.8": {"precision": "bf16", "compiled": True, "interval": INTERVAL},
}


def measure(options: Options) -> dict[str, Any]:
    """Compare at two sizes, with 20 and 50 steps."""
    found, missing = _available(options.peers)
    if peers.DIT not in found:
        return {"skipped": missing[peers.DIT]}
    comparisons = {}
    for name, size in ((name, SIZES[name]) for name in options.sizes):
        for steps in (20, 50):
            variants = {
                peer: Variant(PEERS[peer], {"folder": options.peers, "size": size, "steps": steps}) for peer in found
            }
            variants |= {own: Variant(make, {"size": size, "steps": steps, **how}) for own, how in OURS.items()}
            title = f"{name}: {size.images} images, {steps} steps, cfg {CFG:g}"
            comparisons[title] = compare_processes(variants, options.rounds, warmup=1)
    return {"conditions": {"left out": missing or "no peer"}, "comparisons": comparisons}


def make(
    size: Size, steps: int, precision: str, compiled: bool = False, interval: tuple[float, float] | None = None
) -> Work:
    """Return the drawing of `size.images` images as `ldm sample` does it."""
    keep_freed_memory()
    policy = resolve("cpu", precision)
    torch.manual_seed(0)
    network = for_inference(DiT(network_config(size)), policy)
    maybe_compile(network, compiled, policy.device)
    model = Model(
        network=network,
        autoencoder=_Nothing(),  # type: ignore[arg-type]  # Decoding is not measured here.
        diffusion=Diffusion(schedule="linear", num_steps=NUM_STEPS, prediction="eps"),
        latent_shape=(4, size.side, size.side),
        conditioning=LabelConditioning(tuple(map(str, range(NUM_CLASSES)))),
    )
    sampling = Sampling(cfg=CFG, steps=steps, cfg_interval=interval)
    numbers = np.arange(size.images)
    cond = {"labels": torch.from_numpy(numbers % NUM_CLASSES)}
    return lambda: generate(model, cond, numbers, sampling, policy)


def dit(folder: Path, size: Size, steps: int, precision: str = "fp32", compiled: bool = False) -> Work:
    """facebookresearch/DiT: its respaced diffusion and `forward_with_cfg`."""
    torch.manual_seed(0)
    network = peers.load(folder, peers.DIT, "models").DiT(**shape_of(size), learn_sigma=True).eval()
    diffusion = peers.load(folder, peers.DIT, "diffusion").create_diffusion(str(steps))
    if compiled:
        network.forward = torch.compile(network.forward)
    labels = torch.cat([torch.arange(size.images) % NUM_CLASSES, torch.full((size.images,), NUM_CLASSES)])

    @torch.no_grad()
    def work() -> Tensor:
        noise = torch.randn(size.images, 4, size.side, size.side).repeat(2, 1, 1, 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            return diffusion.ddim_sample_loop(
                network.forward_with_cfg,
                noise.shape,
                noise,
                clip_denoised=False,
                model_kwargs={"y": labels, "cfg_scale": CFG},
                progress=False,
                device="cpu",
            )

    return work


def dit_bf16(folder: Path, size: Size, steps: int) -> Work:
    """The same under autocast."""
    return dit(folder, size, steps, "bf16")


def dit_bf16_compiled(folder: Path, size: Size, steps: int) -> Work:
    """The same under autocast, its forward pass compiled as a whole."""
    return dit(folder, size, steps, "bf16", compiled=True)


def diffusers(folder: Path, size: Size, steps: int) -> Work:
    """diffusers' transformer and DDIM scheduler in the loop of its DiTPipeline."""
    from diffusers import DDIMScheduler

    network = diffusers_network(size).eval()
    scheduler = DDIMScheduler(clip_sample=False)
    labels = torch.cat([torch.arange(size.images) % NUM_CLASSES, torch.full((size.images,), NUM_CLASSES)])

    @torch.no_grad()
    def work() -> Tensor:
        scheduler.set_timesteps(steps)
        x = torch.randn(size.images, 4, size.side, size.side)
        for t in scheduler.timesteps:
            both = torch.cat([x, x])
            output = network(both, timestep=t.expand(len(both)), class_labels=labels).sample
            c, u = output.chunk(2)
            x = scheduler.step(u + CFG * (c - u), t, x).prev_sample
        return x

    return work


PEERS: dict[str, Callable[..., Work]] = {
    "DiT": dit,
    "DiT, bf16 autocast": dit_bf16,
    "DiT, bf16 autocast, compiled": dit_bf16_compiled,
    "diffusers": diffusers,
}


def _available(folder: Path) -> tuple[list[str], dict[str, str]]:
    found, missing = [], {}
    for name, build in PEERS.items():
        try:
            build(folder, SIZES["tiny"], 20)
            found.append(name)
        except (peers.PeerAbsentError, ImportError) as error:
            missing[name] = str(error)
    return found, missing


class _Nothing(nn.Module):
    downsampling = 1

    def decode(self, latents: Tensor) -> Tensor:
        return latents[:, :3].clamp(-1, 1)
