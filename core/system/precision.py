"""The one precision policy: fp32 master weights, and a compute format that the hardware is fast at."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ConfigError

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Policy:
    """Where networks run, and the dtype of their matrix products; weights and reductions stay in fp32."""

    device: torch.device
    dtype: torch.dtype

    @property
    def needs_scaler(self) -> bool:
        """Whether gradients need a GradScaler: fp16 loses small ones."""
        return self.dtype == torch.float16

    @property
    def name(self) -> str:
        """The format as users write it: fp32, bf16 or fp16."""
        return next(name for name, dtype in _DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run their products in the compute format."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def resolve(device: str = "auto", precision: str = "auto") -> Policy:
    """Choose device and compute format.

    device: auto, cpu, cuda, cuda:N or mps. precision: auto, fp32, bf16 or fp16; fp32 products on CUDA use TF32.
    Raises ConfigError for what this machine or this torch cannot do.
    """
    chosen = _device(device)
    policy = Policy(chosen, _dtype(chosen, precision))
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # for all that asks for no device: streams, events, generators
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return policy


def make_deterministic(device: torch.device) -> None:
    """Let a GPU compute the same bits every time, at some cost in speed; a CPU does so anyway.

    To be called before anything is computed there. What has no such form in torch warns. Attention is written out: the
    backward passes of the fused kernels keep their order of sums only where all that has none is an error.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        fuse_attention(False)


def fuse_attention(wanted: bool) -> None:
    """Let attention on a GPU be one kernel, as is usual, or three products."""
    torch.backends.cuda.enable_flash_sdp(wanted)
    torch.backends.cuda.enable_mem_efficient_sdp(wanted)
    torch.backends.cuda.enable_cudnn_sdp(wanted)


@contextmanager
def all_digits() -> Iterator[None]:
    """Let float32 products and convolutions on a GPU keep inside a block the digits that TF32 would drop."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def settle(network: nn.Module, policy: Policy) -> nn.Module:
    """Move a network that will not be trained to its device, its linear maps in the compute format; return it.

    Autocast would convert their weights anew in every pass; what comes out is the same, to the bit.
    """
    network = network.to(policy.device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, nn.Linear):
            module.weight.data = module.weight.data.to(policy.dtype)
    return network


def maybe_compile(module: nn.Module, wanted: bool, device: torch.device) -> None:
    """Compile a network in place with torch.compile, if wanted; its parameters keep their names.

    A network with `blocks` is compiled block by block: as they are alike, one compilation serves all, which takes
    seconds where the whole takes a minute. One that was settled, on a CPU, is compiled as a whole: without a backward
    pass that takes half as long, and what lies between blocks counts there. On a GPU, and as a whole, for the very
    shapes it meets, which are few: training has one, and sampling, which fills its last batch up, one with guidance and
    one without. Raises ConfigError where the compiler that torch needs is missing.
    """
    if not wanted:
        return
    require_compiler(device)
    settled = not any(parameter.requires_grad for parameter in module.parameters())
    whole = settled and device.type == "cpu"
    blocks = getattr(module, "blocks", None)
    for part in blocks if isinstance(blocks, nn.ModuleList) and not whole else [module]:
        part.compile(dynamic=False if whole or device.type == "cuda" else None)


def uncompiled() -> AbstractContextManager[object]:
    """Return a context in which compiled networks run as they are written.

    For what happens now and then during a training: other shapes and modes would each be compiled, for seconds, and
    compiling for several shapes changes the code, and with it the rounding, of those that come after.
    """
    if "torch._dynamo" not in sys.modules:  # Nothing is compiled, and asking for it would load the compiler.
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


def compiling_pays(flops: float, device: torch.device) -> bool:
    """Return whether a training of so many floating point operations is made shorter by compiling its network.

    Compiling takes up to a minute, and the rest then a quarter less: it pays from about ten minutes on. False where the
    compiler is missing, since nobody asked for it.
    """
    try:
        require_compiler(device)
    except ConfigError:
        return False
    return flops > _LONG_TRAINING[device.type]


_LONG_TRAINING = {"cpu": 2e14, "cuda": 5e16}  # ten minutes of two cores and of one GPU, in FLOPs


def require_compiler(device: torch.device) -> None:
    """Raise ConfigError where what torch.compile needs on a device is missing."""
    if device.type == "cpu" and shutil.which(os.environ.get("CXX", "g++")) is None:
        raise ConfigError("--compile needs a C++ compiler, and there is no g++", "install g++, or leave --compile out")
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("--compile on CUDA needs triton", "pip install triton, or leave --compile out")
    if device.type == "mps":
        raise ConfigError("--compile does not serve mps", "leave --compile out")


def bf16_units(device: torch.device) -> str | None:
    """Name what a device has for bf16 products: Ampere GPUs and later; CPUs with AMX or AVX-512 BF16; None without."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type == "cpu":
        # Older releases of torch lack some of these questions; what cannot be asked is taken as absent.
        questions = {"AMX": "_is_amx_tile_supported", "AVX-512 BF16": "_is_avx512_bf16_supported"}
        return next((units for units, ask in questions.items() if getattr(torch.cpu, ask, lambda: False)()), None)
    return None


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"--device is {name!r}", "give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"--device is {name}, but this torch sees no CUDA device", "use --device cpu, or a CUDA build of torch"
            )
        if index and int(index) >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise ConfigError(f"--device is {name}, but there is no such device", f"give cuda:0 to cuda:{last}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("--device is mps, but this torch sees no Apple GPU", "use --device cpu")
    return torch.device(name)


def _dtype(device: torch.device, precision: str) -> torch.dtype:
    if precision == "auto":
        if bf16_units(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in _DTYPES:
        raise ConfigError(f"--precision is {precision!r}", "give auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("--precision fp16 does not serve training on a CPU", "use --precision bf16, fp32 or auto")
    if precision == "bf16" and device.type == "mps":
        raise ConfigError("--precision bf16 does not serve mps", "use --precision fp32 or fp16")
    if precision == "bf16" and device.type == "cuda" and not bf16_units(device):
        raise ConfigError("this GPU has no bf16 units", "use --precision fp16 or auto")
    return _DTYPES[precision]
