"""A U-Net's training step and its sampling, against diffusers' UNet2DModel of the same layers and weights.

Both steps are forward, backward, AdamW and EMA: diffusers' as in its training examples, ours that of the loop, with
clipping and the finite check besides. Sampling is DDIM with guidance.
"""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.autoencoders.identity import IdentityCodec
from ldm.core.autoencoders.identity_config import IdentityConfig
from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.registry import build
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.interchange.unet import to_diffusers
from ldm.core.pipeline.generation import Sampling, generate
from ldm.core.pipeline.model import Model
from ldm.core.pipeline.settings import Diffusion
from ldm.core.settings.families import config_of_preset
from ldm.core.system.precision import for_inference, resolve
from ldm.core.training.step import Stepper

from .interleaved import compare
from .options import Options
from .peer_steps import EMA, LEARNING_RATE
from .sizes import NUM_CLASSES, NUM_STEPS
from .training import Denoiser, plan

SIDE, CHANNELS, BATCH, STEPS, CFG = 16, 3, 16, 5, 3.0
BASELINE = "diffusers, fp32"


def measure(options: Options) -> dict[str, Any]:
    """Compare both at one size, with latents of 16 x 16."""
    precisions = ("fp32", "bf16")
    training = {f"diffusers, {p}": _their_step(p) for p in precisions} | {f"ldm, {p}": _our_step(p) for p in precisions}
    sampling = {f"diffusers, {p}": _their_samples(p) for p in precisions}
    sampling |= {f"ldm, {p}": _our_samples(p) for p in precisions}
    title = f"unet-xs, {SIDE} × {SIDE} × {CHANNELS}, batch {BATCH}"
    return {
        "comparisons": {
            f"training step, {title}": compare(training, options.rounds, baseline=BASELINE),
            f"{STEPS} DDIM steps, cfg {CFG:g}, {title}": compare(sampling, options.rounds, baseline=BASELINE),
        }
    }


def _network() -> Any:
    torch.manual_seed(0)
    config = config_of_preset("unet-xs", FAMILIES, latent_channels=CHANNELS, latent_size=SIDE, num_classes=NUM_CLASSES)
    return build(config)  # type: ignore[arg-type]


def _batch() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, BATCH, CHANNELS, SIDE, SIDE, generator=generator)
    return x0, noise, torch.randint(NUM_STEPS, (BATCH,), generator=generator), torch.arange(BATCH) % NUM_CLASSES


def _our_step(precision: str) -> Callable[[], object]:
    objective = Denoising(schedule("linear", NUM_STEPS), prediction="eps", weighting="snr")
    stepper = Stepper(Denoiser(_network(), objective), plan(BATCH), resolve("cpu", precision))
    numbers, (x0, noise, times, labels) = itertools.count(), _batch()
    return lambda: stepper.step((x0, noise, (times + 1) / NUM_STEPS, labels), next(numbers), 0)


def _their_step(precision: str) -> Callable[[], object]:
    from diffusers import DDPMScheduler
    from diffusers.training_utils import EMAModel

    network: Any = to_diffusers(_network()).train()
    scheduler, ema = DDPMScheduler(num_train_timesteps=NUM_STEPS), EMAModel(network.parameters(), decay=EMA)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0)
    x0, noise, times, labels = _batch()

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = network(scheduler.add_noise(x0, noise, times), times, class_labels=labels).sample
            loss = nn.functional.mse_loss(output.float(), noise)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.step(network.parameters())
        return loss.item()

    return step


def _our_samples(precision: str) -> Callable[[], object]:
    policy = resolve("cpu", precision)
    codec = Autoencoder(IdentityCodec(IdentityConfig(image_channels=CHANNELS)))
    names = tuple(str(label) for label in range(NUM_CLASSES))
    model = Model(
        network=for_inference(_network(), policy),
        autoencoder=codec,
        diffusion=Diffusion(schedule="linear", prediction="eps", weighting="snr"),
        latent_shape=(CHANNELS, SIDE, SIDE),
        conditioning=LabelConditioning(names),
    )
    cond, seeds = {"labels": torch.arange(BATCH) % NUM_CLASSES}, np.arange(BATCH)
    return lambda: generate(model, cond, seeds, Sampling(steps=STEPS, cfg=CFG), policy)


def _their_samples(precision: str) -> Callable[[], object]:
    from diffusers import DDIMScheduler

    network: Any = to_diffusers(_network()).eval()
    scheduler = DDIMScheduler(num_train_timesteps=NUM_STEPS, clip_sample=False)
    noise, labels = _batch()[1], torch.arange(BATCH) % NUM_CLASSES
    both = torch.cat([labels, torch.full_like(labels, NUM_CLASSES)])

    @torch.no_grad()
    def draw() -> Tensor:
        scheduler.set_timesteps(STEPS)
        x = noise
        for step in scheduler.timesteps:
            with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                output = network(torch.cat([x, x]), step, class_labels=both).sample.float()
            cond, null = output.chunk(2)
            x = scheduler.step(null + CFG * (cond - null), step, x).prev_sample
        return x

    return draw
