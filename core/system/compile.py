"""torch.compile: which parts of a network are compiled, when it pays, and when it is switched off."""

import importlib.util
import os
import shutil
import sys
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

from ..errors import ConfigError

_LONG_TRAINING = {"cpu": 2e14, "cuda": 5e16}  # ten minutes of two cores and of one GPU, in FLOPs


def maybe_compile(module: nn.Module, wanted: bool, device: torch.device) -> None:
    """Compile a network in place with torch.compile, if wanted; its parameters keep their names.

    A network with `blocks` is compiled block by block, unless its `uniform` is false: since they are alike, they share
    one compilation, which takes seconds where the whole takes a minute. A frozen one (see `for_inference`) is compiled
    as a whole on a CPU: without a backward pass that takes half as long, and what lies between blocks counts there. On
    a GPU, and as a whole, it is compiled for the exact shapes that occur, which are few: training has one, and
    sampling, which fills up its last batch, one with guidance and one without. Raises ConfigError where the compiler
    that torch needs is missing.
    """
    if not wanted:
        return
    require_compiler(device)
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
    try:
        require_compiler(device)
    except ConfigError:
        return False
    return flops > _LONG_TRAINING[device.type]


def require_compiler(device: torch.device) -> None:
    """Raise ConfigError where what torch.compile needs on a device is missing."""
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError(
            "`machine.compile=yes` needs a C++ compiler, but g++ is missing",
            "install g++, or leave `machine.compile=yes` out",
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError(
            "`machine.compile=yes` on CUDA needs triton", "pip install triton, or leave `machine.compile=yes` out"
        )
    if device.type == "mps":
        raise ConfigError("`machine.compile=yes` is not supported on mps", "leave `machine.compile=yes` out")
