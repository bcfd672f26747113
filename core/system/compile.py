"""torch.compile: which parts of a network are compiled, when it pays, and when it is switched off."""

import importlib.util
import math
import os
import shutil
import sys
import warnings
from contextlib import AbstractContextManager, nullcontext
from functools import cache

import torch
from torch import nn

from ..errors import ConfigError, Notice, UserError
from .signals import stop_flag

_REMEDY = (
    "install g++ and Python's headers (python3-dev), and set TMPDIR to a folder without spaces in its name from which"
    " programs may run"
)
_LONG_TRAINING = {"cpu": 2e14, "cuda": 5e16}  # ten minutes of two cores and of one GPU, in FLOPs


def maybe_compile(module: nn.Module, wanted: bool, device: torch.device) -> None:
    """Compile a network in place with torch.compile, if wanted; its parameters keep their names.

    A network with `blocks` is compiled block by block, unless its `uniform` is false: since they are alike, they share
    one compilation, which takes seconds where the whole takes a minute. A frozen one (see `for_inference`) is compiled
    as a whole on a CPU: without a backward pass that takes half as long, and what lies between blocks counts there. On
    a GPU, and as a whole, it is compiled for the exact shapes that occur, which are few: training has one, and
    sampling, which fills up its last batch, one with guidance and one without. Raises ConfigError where compiling does
    not work here.
    """
    if not wanted:
        return
    require_compiler(device)
    if reason := why_not(device.type):
        remedy = f"{_REMEDY}, or leave `machine.compile=yes` out"
        raise ConfigError(f"`machine.compile=yes`, but torch cannot compile here: {reason}", remedy)
    frozen = not any(parameter.requires_grad for parameter in module.parameters())
    whole = (frozen and device.type == "cpu") or not getattr(module, "uniform", True)
    blocks = getattr(module, "blocks", None)
    for part in blocks if isinstance(blocks, nn.ModuleList) and not whole else [module]:
        part.compile(dynamic=False if whole or device.type == "cuda" else None)


def eager_mode() -> AbstractContextManager[object]:
    """Return a context in which compiled networks run eagerly.

    For validation and sampling during training: each of their shapes and modes would take seconds to compile, and
    compiling for several shapes changes the code, and with it the rounding, of later training steps.
    """
    if "torch._dynamo" not in sys.modules:  # Nothing is compiled, and `set_stance` would load the compiler.
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def compiling_pays(flops: float, device: torch.device) -> bool:
    """Return whether compiling its network makes a training of `flops` floating point operations shorter.

    Compiling takes up to a minute and saves a quarter of the rest: it pays from about ten minutes on. False where the
    compiler is missing, since compiling was not asked for.
    """
    return _is_long(flops, device) and _lacking(device) is None


def _is_long(flops: float, device: torch.device) -> bool:
    return flops > _LONG_TRAINING.get(device.type, math.inf)


def should_compile(wanted: bool | None, flops: float, device: torch.device, uniform: bool = True) -> bool:
    """Return whether to compile a training: the setting, else whether the training as a whole is long enough.

    Not the rest of it: a resumed training must continue with the arithmetic that it started with. uniform: whether the
    network's blocks are alike, so that one is compiled for all.
    """
    return wanted if wanted is not None else uniform and worth_compiling(flops, device)


def worth_compiling(flops: float, device: torch.device) -> bool:
    """Return whether compiling pays, and works; where it would pay and does not work, a Notice says why."""
    if not _is_long(flops, device):
        return False
    if reason := _lacking(device) or why_not(device.type):
        warnings.warn(Notice(f"training is not compiled, which takes longer: {reason} ({_REMEDY})"), stacklevel=2)
    return reason is None


@cache
def why_not(kind: str) -> str | None:
    """Compile a small function on a kind of device, and return why that fails; None where it works.

    A compiler may be there and useless: without Python's headers, with a temporary folder whose name has a space or
    from which no program may run. What torch builds here for the first time it needs for networks, too.
    """
    try:
        with stop_flag() as stop:
            torch.compile(lambda x: (2 * x + 1).relu())(torch.ones(64, device=kind))
        if stop:
            raise stop.stopped("while compiling")
    except UserError:
        raise
    except Exception as error:
        return reason_in(str(error)) or type(error).__name__
    return None


def reason_in(said: str) -> str:
    """Return the line in which a failed compilation says why: the compiler's own, which comes after torch's."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    reasons = (line for line in lines if " error: " in line.lower() or " cannot " in line.lower())
    return next(reasons, lines[0] if lines else "")[:200]


def require_compiler(device: torch.device) -> None:
    """Raise ConfigError where what torch.compile needs on a device is missing."""
    if lacking := _lacking(device):
        remedy = {"cpu": "install g++, or ", "cuda": "pip install triton, or "}.get(device.type, "")
        raise ConfigError(f"`machine.compile=yes`: {lacking}", f"{remedy}leave `machine.compile=yes` out")


def _lacking(device: torch.device) -> str | None:
    """Return what torch.compile lacks on a device, if that shows without trying."""
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        return "it needs a C++ compiler, but g++ is missing"
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        return "on CUDA it needs triton, which is missing"
    return "it is not supported on mps" if device.type == "mps" else None
