"""AdamW: which parameters decay, the learning rate over images seen, and a state that checkpoints can hold."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import processes
from ..errors import DataError

_FUSED = ("cpu", "cuda")
_MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class OptimConfig:
    """Settings of AdamW (Loshchilov & Hutter 2019). warmup_images: length of the linear rise. clip: largest norm of
    the gradient, 0 for none. decay: constant, cosine or linear, to 0 at the end of training."""

    lr: float
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_images: int = 0
    decay: str = "constant"
    clip: float = 0.0


def learning_rate(config: OptimConfig, images_seen: int, total_images: int) -> float:
    """Return the learning rate after `images_seen` of `total_images`: linear warm-up from 0, then the decay."""
    if images_seen < config.warmup_images:
        return config.lr * images_seen / config.warmup_images
    rest = max(total_images - config.warmup_images, 1)
    progress = min((images_seen - config.warmup_images) / rest, 1.0)
    if config.decay == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    if config.decay == "linear":
        return config.lr * (1 - progress)
    assert config.decay == "constant", f"decay {config.decay!r}"
    return config.lr


def build_adamw(module: nn.Module, config: OptimConfig) -> torch.optim.AdamW:
    """Return AdamW over a module's trainable parameters, fused where the device has that kernel.

    Only the weights of linear maps and convolutions decay: not biases, norms and embeddings.
    """
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    for parameter in module.parameters():
        if parameter.requires_grad:
            spare = parameter.ndim < 2 or id(parameter) in embeddings
            (spared if spare else decayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": spared, "weight_decay": 0.0}]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
        fused=all(parameter.device.type in _FUSED for parameter in decayed + spared),
    )


def clip_gradients(optimizer: torch.optim.Optimizer, config: OptimConfig, sharded: bool = False) -> Tensor:
    """Scale all gradients down to norm `config.clip` where they exceed it. Returns the norm before.

    sharded: the gradients are this process's rows; the norm is that of all rows.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if sharded:
        norm = torch.linalg.vector_norm(processes.all_gather_rows(norm.reshape(1)))
    if config.clip > 0:
        torch._foreach_mul_(gradients, torch.clamp(config.clip / (norm + 1e-6), max=1.0))
    return norm


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return AdamW's state by parameter name: NAME.exp_avg, NAME.exp_avg_sq, NAME.step.

    A parameter without a step so far is there with zeros, which is the state it starts from.
    """
    tensors = {}
    for name, parameter in _named(optimizer, module).items():
        state = optimizer.state.get(parameter, {})
        for moment in _MOMENTS:
            tensors[f"{name}.{moment}"] = state.get(moment, torch.zeros_like(parameter)).detach()
        tensors[f"{name}.step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Take up a state that `optimizer_state` gave: training goes on to the bit as if it had not stopped.

    Raises DataError naming a parameter that is missing, unknown or of another shape.
    """
    named = _named(optimizer, module)
    expected = {f"{name}.{key}": p.shape for name, p in named.items() for key in _MOMENTS}
    expected |= {f"{name}.step": torch.Size() for name in named}
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected or tensors[key].shape != expected[key]:
            raise DataError(f"the checkpoint's optimizer state does not fit this network at {key}")
    names = {parameter: name for name, parameter in named.items()}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    # The fused kernel reads memory in the parameter's order (channels last, for some), which files do not keep.
    state = {
        i: {
            **{moment: torch.empty_like(p).copy_(tensors[f"{names[p]}.{moment}"]) for moment in _MOMENTS},
            "step": tensors[f"{names[p]}.step"].to(torch.float32, copy=True),
        }
        for i, p in enumerate(order)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _named(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, nn.Parameter]:
    """The optimizer's parameters by their names in the module."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in module.named_parameters() if id(p) in own}
    assert len(named) == len(own), "the optimizer steps parameters that are not the module's"
    return named
