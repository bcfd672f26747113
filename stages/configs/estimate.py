"""Settings of `ldm estimate`."""

import re
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from ...core.denoisers.settings import DenoiserPreset
from ...core.settings.fields import Count, Section, option, section
from ...core.system.settings import Machine

_FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}


def parse_rate(value: object) -> object:
    """Read `250G`, `1.9T` or `2e12` as a number; leave anything else for pydantic to refuse."""
    match = re.fullmatch(r"\s*(\d+\.?\d*(?:e\d{1,2})?)\s*([kmgtp]?)\s*", str(value).lower(), re.ASCII)
    return float(Decimal(match[1]) * _FACTORS[match[2]]) if match else value


Rate = Annotated[float, BeforeValidator(parse_rate), Field(gt=0)]
Where = Literal[
    "this", "b200", "h200", "h100", "a100", "a100-40gb", "l40s", "l4", "rtx4090", "rtx3090", "v100", "t4"
]  # see GPUS in core/system/flops.py


class Estimate(Section):
    """Settings of `ldm estimate`."""

    examples = (
        "ldm estimate mnist",
        "ldm estimate imagenette-64 --machine a100",
        "ldm estimate --preset DiT-XL/2 --latent 4,32,32 --classes 1000 --batch-size 1024 --gpus 8 --machine h200",
    )

    recipe: str | None = option(None, "Recipe: a YAML file, or the name of one; without it, the defaults.", "RECIPE")
    preset: DenoiserPreset | None = option(
        None, "Denoiser of this size instead of the recipe's: DiT-S/2 … DiT-XL/2.", "--preset"
    )
    latent: tuple[int, int, int] | None = option(
        None, "Latents of channels,height,width; by default those of the recipe's autoencoder.", "--latent"
    )
    classes: int | None = option(None, "Classes; by default those of the data.", "--classes", ge=1)
    dataset: Count | None = option(None, "Training images; by default counted in the data.", "--dataset")
    batch_size: int | None = option(
        None, "Images per step of train-dit, over all GPUs, instead of the recipe's.", "--batch-size", ge=1
    )
    gpus: int = option(1, "GPUs that train together, each with a share of the batch.", "--gpus", ge=1)
    shard: bool | None = option(None, "As train-dit --shard: weights and optimizer are split over the GPUs.", "--shard")
    where: Where = option(
        "this", "GPU to estimate for; this machine is measured, others are taken from data sheets.", "--machine"
    )
    flops: Rate | None = option(None, "Peak operations a second of another machine: 250G, 1.9T.", "--flops")
    utilisation: float | None = option(
        None,
        "Share of that peak, or of the data sheet's, that training reaches; by default 0.35, and 0.22 on a GPU with"
        " networks of fewer than 100 M parameters.",
        "--utilisation",
        gt=0,
        le=1,
    )
    seconds: float = option(4.0, "Seconds for measuring each stage on this machine.", "--seconds", gt=0)
    machine: Machine = section(Machine)
