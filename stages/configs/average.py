"""Settings of `ldm average`. Imports no torch."""

from typing import Annotated

from pydantic import Field

from ...core.settings.fields import Location, Run, option
from ...core.training.settings import LONGEST_STD


class Average(Run):
    """Settings of `ldm average`: the lengths of the EMA that are wanted."""

    examples = (
        "ldm average --name mine --std 0.1",
        "ldm average --name mine --std 0.05,0.1,0.15",
        "ldm average --name mine --decay 0.9995",
    )

    std: tuple[Annotated[float, Field(gt=0, le=LONGEST_STD)], ...] = option(
        (),
        "Standard deviations of the averages over the training's steps, as shares of its length: 0.05 to 0.2.",
        "--std",
    )
    decay: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = option(
        (), "Decays of the EMA, as if trained with this train.ema.", "--decay"
    )
    denoiser: Location | None = option(None, "Denoiser stage that was trained; by default the run's own.", "--denoiser")
