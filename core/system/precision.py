"""The one precision policy: fp32 master weights, and a compute dtype that is fast on the hardware."""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TypeVar

import torch
from torch import nn

from ..errors import ConfigError

AnyModule = TypeVar("AnyModule", bound=nn.Module)
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


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
        """The dtype as users write it: fp32, bf16 or fp16."""
        return next(name for name, dtype in DTYPES.items() if dtype == self.dtype)

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context in which networks run their matrix products in the compute dtype."""
        return torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype != torch.float32)


def resolve(device: str = "auto", precision: str = "auto") -> Policy:
    """Choose device and compute dtype.

    device: auto, cpu, cuda, cuda:N or mps. precision: auto, fp32, bf16 or fp16; fp32 products on CUDA use TF32.
    Raises ConfigError for what this machine or this torch cannot do.
    """
    chosen = _device(device)
    policy = Policy(chosen, _dtype(chosen, precision))
    if chosen.type == "cuda":
        if chosen.index is not None:
            torch.cuda.set_device(chosen)  # the default of streams, events and generators
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.allow_tf32 = True
    return policy


def make_deterministic(device: torch.device) -> None:
    """Let a GPU compute the same bits every time, at some cost in speed; a CPU does so anyway.

    Call it before anything is computed there. Operations without a deterministic form warn. Attention is not fused: the
    backward passes of the fused kernels are deterministic only where torch raises instead of warning.
    """
    if device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.backends.cudnn.benchmark = False
        fuse_attention(False)


def fuse_attention(wanted: bool) -> None:
    """Choose attention on a GPU as one fused kernel, torch's default, or as separate matrix products."""
    torch.backends.cuda.enable_flash_sdp(wanted)
    torch.backends.cuda.enable_mem_efficient_sdp(wanted)
    torch.backends.cuda.enable_cudnn_sdp(wanted)


@contextmanager
def no_tf32() -> Iterator[None]:
    """Compute float32 products and convolutions on a GPU in full float32, not TF32, inside a block."""
    products, convolutions = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(products)
        torch.backends.cudnn.allow_tf32 = convolutions


def for_inference(network: AnyModule, policy: Policy) -> AnyModule:
    """Move a network to its device in eval mode, frozen, with its large weights in the compute dtype; return it.

    Autocast would convert these weights in every pass; the output is the same to the bit.
    """
    network = network.to(policy.device).eval().requires_grad_(False)
    for module in network.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.weight.data = module.weight.data.to(policy.dtype)
    return network


def bf16_units(device: torch.device) -> str | None:
    """Name a device's bf16 matrix units (Ampere GPUs and later; CPUs with AMX or AVX-512 BF16); None without any."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type == "cpu":
        # Older releases of torch lack some of these queries; a missing query counts as missing hardware.
        queries = {"AMX": "_is_amx_tile_supported", "AVX-512 BF16": "_is_avx512_bf16_supported"}
        named = (units for units, query in queries.items() if getattr(torch.cpu, query, lambda: False)())
        return next((units for units in named if bf16_works() and _bf16_is_fused()), None)
    return None


@cache
def bf16_works() -> bool:
    """Try what networks compute, in bf16 on the CPU: its flags may name units that the libraries may not use.

    That is so where the instruction set is limited, by ONEDNN_MAX_CPU_ISA or a virtual machine.
    """
    ones = partial(torch.ones, dtype=torch.bfloat16, requires_grad=True)
    try:
        rows = nn.functional.linear(ones(64, 64), ones(64, 64), ones(64)) @ ones(64, 64)
        maps = nn.functional.conv2d(ones(2, 16, 16, 16), ones(16, 16, 3, 3))
        (rows.sum() + maps.sum()).backward()
    except RuntimeError:
        return False
    return True


@cache
def _bf16_is_fused() -> bool:
    """Try a product with what follows it in one kernel: oneDNN has none in bf16 for the older instruction sets."""
    if not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return True
    ones = partial(torch.ones, dtype=torch.bfloat16)
    try:
        torch.ops.mkldnn._linear_pointwise(ones(64, 64), ones(64, 64), ones(64), "gelu", [], "tanh")
    except RuntimeError:
        return False
    return True


def _device(name: str) -> torch.device:
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (index and not (kind == "cuda" and index.isdecimal())):
        raise ConfigError(f"`machine.device={name}` is unknown", "give auto, cpu, cuda, cuda:N or mps")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(
                f"`machine.device={name}`, but this torch sees no CUDA device",
                "use `machine.device=cpu`, or a CUDA build of torch",
            )
        if index and int(index) >= torch.cuda.device_count():
            last = torch.cuda.device_count() - 1
            raise ConfigError(f"`machine.device={name}`, but this device does not exist", f"give cuda:0 to cuda:{last}")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise ConfigError("`machine.device=mps`, but this torch sees no Apple GPU", "use `machine.device=cpu`")
    return torch.device(name)


def _dtype(device: torch.device, precision: str) -> torch.dtype:
    if precision == "auto":
        if bf16_units(device):
            return torch.bfloat16
        return torch.float16 if device.type == "cuda" else torch.float32
    if precision not in DTYPES:
        raise ConfigError(f"`machine.precision={precision}` is unknown", "give auto, fp32, bf16 or fp16")
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "`machine.precision=fp16` cannot train on a CPU",
            "use `machine.precision=bf16`, fp32 or auto",
        )
    if precision == "bf16" and device.type == "cpu" and not bf16_works():
        raise ConfigError("this processor, as it is set up, multiplies nothing in bf16", "use `machine.precision=fp32`")
    if precision == "bf16" and device.type == "mps":
        raise ConfigError("`machine.precision=bf16` is not supported on mps", "use `machine.precision=fp32`, or fp16")
    if precision == "bf16" and device.type == "cuda" and not bf16_units(device):
        raise ConfigError("this GPU has no bf16 units", "use `machine.precision=fp16`, or auto")
    return DTYPES[precision]
