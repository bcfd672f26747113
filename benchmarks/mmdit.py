"""An MM-DiT's training step, against diffusers' SD3Transformer2DModel of the same layers, weights and texts.

Both steps are forward, backward, AdamW and EMA on the loss of a flow: diffusers' as its training examples take them,
ours that of the loop, with clipping and the finite check besides. Texts are of full length: diffusers has no mask.
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.registry import build
from ldm.core.diffusion.conditions import Cond
from ldm.core.diffusion.objective import Denoising
from ldm.core.diffusion.schedules import schedule
from ldm.core.interchange.sd3 import to_diffusers
from ldm.core.settings.families import config_of_preset
from ldm.core.system.compile import maybe_compile
from ldm.core.system.precision import resolve
from ldm.core.training.step import Stepper

from .interleaved import compare
from .options import Options
from .peer_steps import EMA, LEARNING_RATE
from .sizes import NUM_STEPS
from .training import Denoiser, plan

SIDE, CHANNELS, BATCH, LENGTH, WIDTH = 16, 4, 32, 32, 256
BASELINE = "diffusers, fp32"
TITLE = f"mmdit-xs, {SIDE} × {SIDE} × {CHANNELS}, texts of {LENGTH} × {WIDTH}, batch {BATCH}"


def measure(options: Options) -> dict[str, Any]:
    """Compare both at one size, with latents of 16 x 16."""
    variants = {f"diffusers, {precision}": _their_step(precision) for precision in ("fp32", "bf16")}
    variants |= {f"ldm, {precision}": _our_step(precision) for precision in ("fp32", "bf16")}
    variants["ldm, bf16, compiled"] = _our_step("bf16", compiled=True)
    return {"comparisons": {f"training step, {TITLE}": compare(variants, options.rounds, baseline=BASELINE)}}


def _network() -> Any:
    torch.manual_seed(0)
    texts = {"token_width": WIDTH, "pooled_width": WIDTH, "text_length": LENGTH}
    return build(config_of_preset("mmdit-xs", FAMILIES, latent_channels=CHANNELS, latent_size=SIDE, **texts))  # type: ignore[arg-type]


def _batch() -> tuple[Tensor, Tensor, Tensor, Cond]:
    generator = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, BATCH, CHANNELS, SIDE, SIDE, generator=generator)
    cond = {
        "tokens": torch.randn(BATCH, LENGTH, WIDTH, generator=generator),
        "mask": torch.ones(BATCH, LENGTH, dtype=torch.bool),
        "pooled": torch.randn(BATCH, WIDTH, generator=generator),
    }
    return x0, noise, torch.rand(BATCH, generator=generator), cond


def _our_step(precision: str, compiled: bool = False) -> Callable[[], object]:
    objective = Denoising(schedule("rectified-flow", NUM_STEPS), prediction="flow", weighting="flow")
    policy, network = resolve("cpu", precision), _network()
    maybe_compile(network, compiled, policy.device)
    stepper = Stepper(Denoiser(network, objective), plan(BATCH), policy)
    numbers, data = itertools.count(), _batch()
    return lambda: stepper.step(data, next(numbers), 0)


def _their_step(precision: str) -> Callable[[], object]:
    from diffusers.training_utils import EMAModel

    network: Any = to_diffusers(_network(), ahead=0).train()
    ema = EMAModel(network.parameters(), decay=EMA)
    optimizer = torch.optim.AdamW(network.parameters(), lr=LEARNING_RATE, weight_decay=0)
    x0, noise, t, cond = _batch()
    share = t.view(-1, 1, 1, 1)

    def step() -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            output = network((1 - share) * x0 + share * noise, cond["tokens"], cond["pooled"], t * NUM_STEPS).sample
            loss = nn.functional.mse_loss(output.float(), noise - x0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ema.step(network.parameters())
        return loss.item()

    return step
