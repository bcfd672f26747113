"""Machines by name, as their makers describe them: dense products a second, and memory."""

from dataclasses import dataclass

TERA, GIGA = 1e12, 1e9


@dataclass(frozen=True)
class Machine:
    """A GPU. rates: operations a second by dtype, of dense products; fp32 is TF32 where there is that.
    memory: bytes."""

    rates: dict[str, float]
    memory: float


def _gpu(memory: float, fp32: float, bf16: float | None, fp16: float) -> Machine:
    rates = {"fp32": fp32 * TERA, "fp16": fp16 * TERA} | ({} if bf16 is None else {"bf16": bf16 * TERA})
    return Machine(rates, memory * GIGA)


MACHINES: dict[str, Machine] = {
    "b200": _gpu(192, 1125, 2250, 2250),
    "h200": _gpu(141, 494, 989, 989),
    "h100": _gpu(80, 494, 989, 989),
    "a100": _gpu(80, 156, 312, 312),
    "a100-40gb": _gpu(40, 156, 312, 312),
    "l40s": _gpu(48, 183, 362, 362),
    "l4": _gpu(24, 60, 121, 121),
    "rtx4090": _gpu(24, 82.6, 165, 165),
    "rtx3090": _gpu(24, 35.6, 71, 71),
    "v100": _gpu(32, 15.7, None, 125),
    "t4": _gpu(16, 8.1, None, 65),
}

# Of the data sheet's rate, in training with cached latents: 0.24 by fast-DiT's XL/2 on an A100 (107 images/s, counted
# as here), and 0.55 is what this project aims at. Small networks reach less than large ones.
UTILISATION = 0.35
