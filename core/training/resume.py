"""What a checkpoint has to hold for the training loop to go on from it."""

from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from ..errors import DataError
from ..runs.checkpoint import STATE, Checkpoint
from ..runs.schemas import first_wrong
from .guard import FiniteGuard
from .record import Meter

ENDED = "ended_of"  # the images asked for in a training that has ended, if before them
_OLD_KEY = "owes"  # of `evaluation_pending`, in checkpoints of older versions


class _State(BaseModel):
    """What `state.json` holds for the training loop."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)
    images: Annotated[int, Field(ge=0, lt=2**62)]
    steps: Annotated[int, Field(ge=0, lt=2**62)]
    guard: FiniteGuard
    meter: Meter
    scaler: dict[str, float]
    ema_updates: Annotated[int, Field(ge=0, lt=2**62)]
    evaluation_pending: bool = Field(default=False, validation_alias=AliasChoices("evaluation_pending", _OLD_KEY))
    ended_of: Annotated[int, Field(ge=0, lt=2**62)] | None = None


def evaluation_pending(found: Checkpoint) -> bool:
    """Return whether a stop cut an evaluation short at this checkpoint."""
    return bool(found.state.get("evaluation_pending", found.state.get(_OLD_KEY, False)))


def ended(found: Checkpoint, images: int) -> bool:
    """Return whether a training of so many images ended at this checkpoint, before them: by patience, or a signal."""
    return found.state.get(ENDED) == images


def require_complete(found: Checkpoint, remedy: str) -> None:
    """Raise DataError where a checkpoint, though undamaged, lacks what the training loop needs."""
    wrong = first_wrong(_State, found.state)
    if wrong is not None:
        raise DataError(f"{found.path / STATE} is damaged: {wrong}", remedy)
    missing = {"model", "ema", "optimizer"} - found.groups.keys()
    if missing:
        raise DataError(f"{found.path} has no {min(missing)}.safetensors", remedy)
