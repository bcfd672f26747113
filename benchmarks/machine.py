"""What a figure was measured on."""

import platform
import time
from typing import Any

import torch

from ldm.core.system.machine import processor_name
from ldm.core.system.precision import bf16_units


def describe() -> dict[str, Any]:
    """Return processor, threads, versions, and the rate of a matrix product in GFLOP/s, from which much follows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor_name()
    return {
        "device": name,
        "bf16_units": bf16_units(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "date": time.strftime("%Y-%m-%d"),
        "matmul_gflops": {kind: round(_matmul_rate(dtype, device)) for kind, dtype in _KINDS.items()},
    }


_KINDS = {"fp32": torch.float32, "bf16": torch.bfloat16}


def _matmul_rate(dtype: torch.dtype, device: torch.device, side: int = 2048, calls: int = 8) -> float:
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        (a @ b).sum().item()
        seconds.append(time.perf_counter() - started)
    return 2 * side**3 / min(seconds) / 1e9
