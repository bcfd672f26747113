"""What a checkpoint keeps beside tensors, looked at before training goes on from it."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ..errors import DataError
from ..runs.schemas import first_wrong
from . import checkpoint


class _Numbers(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Guard(_Numbers):
    skipped: int
    recent: list[int]


class _Meter(_Numbers):
    sums: dict[str, float]
    counts: dict[str, Annotated[int, Field(ge=1)]]


class _State(_Numbers):
    """What a checkpoint keeps beside tensors."""

    images: Annotated[int, Field(ge=0, lt=2**62)]
    steps: Annotated[int, Field(ge=0, lt=2**62)]
    guard: _Guard
    meter: _Meter
    scaler: dict[str, float]
    ema_updates: Annotated[int, Field(ge=0, lt=2**62)]
    owes: bool = False


def require_whole(found: checkpoint.Checkpoint, remedy: str) -> None:
    """Raise DataError for a checkpoint that is what was written, and is none of a training."""
    wrong = first_wrong(_State, found.state)
    if wrong is None and found.state["meter"]["sums"].keys() != found.state["meter"]["counts"].keys():
        wrong = "meter: its sums and counts are of different numbers"
    if wrong is not None:
        raise DataError(f"{found.path / checkpoint.STATE} is damaged: {wrong}", remedy)
    missing = {"model", "ema", "optimizer"} - found.groups.keys()
    if missing:
        raise DataError(f"{found.path} has no {min(missing)}.safetensors", remedy)
