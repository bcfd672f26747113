"""Muon (Jordan et al. 2024) for the weights of repeated blocks, beside AdamW for all others."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..system.flops import Memory, Passes

_MOMENTUM = 0.95
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
_KERNELS = 3 * _ITERATIONS + 8  # of a weight's step, at the least: products, momentum, norm, and the step itself


def muon_weights(module: nn.Module) -> list[Tensor]:
    """Return the weights that take Muon's steps: of linear maps and convolutions in lists of layers.

    AdamW steps the others: first and last layers, which lie outside of lists; embeddings, norms and biases; and
    depthwise convolutions, which mix no channels.
    """
    lists = [each for each in module.modules() if isinstance(each, (nn.ModuleList, nn.Sequential))]
    found: dict[int, Tensor] = {}
    for layer in (layer for each in lists for layer in each.modules()):
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1):
            found[id(layer.weight)] = layer.weight
    return [weight for weight in found.values() if weight.requires_grad]


class MuonAdamW(torch.optim.AdamW):
    """AdamW in which some weights, the last parameter group, take Muon's steps instead.

    Such a step is the orthogonal matrix nearest to the momentum, times √max(1, rows / columns), times the rate; a
    kernel's rows are its output channels. others: AdamW's groups. relative: Muon's learning rate over theirs. dtype: of
    the iteration that orthogonalises, for which bfloat16 is enough; float16 would lose small gradients, and becomes
    float32. adamw: further arguments of AdamW.
    """

    def __init__(
        self,
        weights: list[Tensor],
        others: list[dict[str, Any]],
        relative: float,
        dtype: torch.dtype,
        **adamw: Any,
    ) -> None:
        super().__init__(others, **adamw)
        self.add_param_group({"params": weights, "relative": relative, "lr": relative * adamw["lr"]})
        self.dtype = torch.float32 if dtype == torch.float16 else dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Step all weights that have a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = groups[:-1]
            super().step()
        finally:
            self.param_groups = groups
        lr, decay = groups[-1]["lr"], groups[-1]["weight_decay"]
        for weight in groups[-1]["params"]:
            if weight.grad is not None:
                direction = self._direction(weight)
                weight.mul_(1 - lr * decay).sub_(direction, alpha=lr)

    def _direction(self, weight: Tensor) -> Tensor:
        """Take a gradient into the momentum, and return the step that follows from both."""
        state = self.state[weight]
        if not state:
            state["step"], state["momentum_buffer"] = torch.zeros(()), torch.zeros_like(weight)
        assert weight.grad is not None
        state["step"] += 1
        momentum = state["momentum_buffer"].lerp_(weight.grad, 1 - _MOMENTUM)
        matrix = weight.grad.lerp(momentum, _MOMENTUM).flatten(1)  # Nesterov's
        scale = math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
        return orthogonalised(matrix.to(self.dtype)).to(weight).reshape(weight.shape) * scale


def orthogonalised(matrix: Tensor) -> Tensor:
    """Return about U Vᵀ of a matrix U S Vᵀ (M, N): its singular values come near to 1, from 0.7 to 1.2.

    Five Newton-Schulz iterations of a quintic polynomial, in the matrix's dtype.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if is_tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if is_tall else x


def cost_with(optimizer: str, network: nn.Module, passes: Passes, memory: Memory) -> tuple[Passes, Memory]:
    """Return the cost of a step that was counted with AdamW; with `muon`, one moment fewer, and the iterations."""
    if optimizer != "muon":
        return passes, memory
    weights = muon_weights(network)
    shapes = [(weight.shape[0], weight.numel() // weight.shape[0]) for weight in weights]
    products = sum(_ITERATIONS * (2 * min(shape) ** 2 * max(shape) + min(shape) ** 3) for shape in shapes)
    kernels, saved = passes.optimizer_kernels + len(weights) * _KERNELS, 4 * sum(rows * of for rows, of in shapes)
    passes = replace(passes, optimizer=2 * products, optimizer_kernels=kernels)
    return passes, replace(memory, moments=memory.moments - saved, together=memory.together - saved)
