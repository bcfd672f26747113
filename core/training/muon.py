"""Muon (Jordan et al. 2024) for the weights of repeated blocks, beside AdamW for all others."""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..system.flops import Memory, Passes

_MOMENTUM = 0.95
_COEFFICIENTS, _ITERATIONS = (3.4445, -4.7750, 2.0315), 5
_STACKED = 1 << 24  # numbers in the weights that step together
_KERNELS = 3 * _ITERATIONS + 8  # of a step of one shape, at the least: products, momentum, norm, the step itself


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
    float32. adamw: further arguments of AdamW, fused.

    found_inf: as fused AdamW takes it, on the weights' device: where it is 1, a step changes nothing.
    """

    found_inf: Tensor | None = None

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
        for weights in self._alike(groups[-1]["params"]):
            directions = self._directions(weights)
            if decay:
                kept = torch.full((), 1 - lr * decay, device=weights[0].device)
                kept = kept if self.found_inf is None else kept.where(self.found_inf == 0, 1)
                torch._foreach_mul_(weights, [kept] * len(weights))
            torch._foreach_sub_(weights, directions, alpha=lr)

    def _alike(self, weights: list[Tensor]) -> Iterator[list[Tensor]]:
        """Yield the weights that have a gradient, those of one shape together, as many as are stacked at once."""
        alike: dict[torch.Size, list[Tensor]] = {}
        for weight in weights:
            if weight.grad is not None:
                alike.setdefault(weight.shape, []).append(weight)
        for some in alike.values():
            at_once = max(1, _STACKED // some[0].numel())
            yield from (some[start : start + at_once] for start in range(0, len(some), at_once))

    def _directions(self, weights: list[Tensor]) -> list[Tensor]:
        """Take the gradients of weights of one shape into their momentum, and return the steps that follow."""
        for weight in weights:
            if not self.state[weight]:
                start = torch.zeros((), device=weight.device)
                self.state[weight].update(step=start, momentum_buffer=torch.zeros_like(weight))
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        momenta = [self.state[weight]["momentum_buffer"] for weight in weights]
        steps = [self.state[weight]["step"] for weight in weights]

        # In a step that is to change nothing, gradients are the momenta, which then stay, and the directions are 0.
        taken = None if self.found_inf is None else self.found_inf == 0
        if taken is not None:
            gradients = [gradient.where(taken, momentum) for gradient, momentum in zip(gradients, momenta, strict=True)]
        torch._foreach_add_(steps, 1 if taken is None else [taken.to(steps[0])] * len(steps))

        torch._foreach_lerp_(momenta, gradients, 1 - _MOMENTUM)
        matrices = torch.stack(torch._foreach_lerp(gradients, momenta, _MOMENTUM)).flatten(2)  # Nesterov's
        scale = math.sqrt(max(1, matrices.shape[1] / matrices.shape[2]))
        directions = orthogonalised(matrices.to(self.dtype)).to(weights[0].dtype) * scale
        directions = directions if taken is None else directions * taken
        return list(directions.reshape(len(weights), *weights[0].shape).unbind())


def orthogonalised(matrices: Tensor) -> Tensor:
    """Return about U Vᵀ of matrices U S Vᵀ (N, rows, columns): their singular values come near to 1, from 0.7 to 1.2.

    Five Newton-Schulz iterations of a quintic polynomial, in the matrices' dtype.
    """
    a, b, c = _COEFFICIENTS
    is_tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if is_tall else matrices
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def cost_with(optimizer: str, network: nn.Module, passes: Passes, memory: Memory) -> tuple[Passes, Memory]:
    """Return the cost of a step that was counted with AdamW; with `muon`, one moment fewer, and the iterations."""
    if optimizer != "muon":
        return passes, memory
    weights = muon_weights(network)
    shapes = [(weight.shape[0], weight.numel() // weight.shape[0]) for weight in weights]
    products = sum(_ITERATIONS * (2 * min(shape) ** 2 * max(shape) + min(shape) ** 3) for shape in shapes)
    kernels, saved = passes.optimizer_kernels + len(set(shapes)) * _KERNELS, 4 * sum(rows * of for rows, of in shapes)
    passes = replace(passes, optimizer=2 * products, optimizer_kernels=kernels)
    return passes, replace(memory, moments=memory.moments - saved, together=memory.together - saved)
