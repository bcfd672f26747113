"""The optimizer: the learning rate over images seen, which parameters decay, clipping, and its state in checkpoints."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..distributed import processes
from ..errors import DataError
from .muon import MuonAdamW, muon_weights
from .settings import Train

_FUSED = ("cpu", "cuda")
_MOMENTS, _MUON_MOMENTS = ("exp_avg", "exp_avg_sq"), ("momentum_buffer",)


def learning_rate(images_seen: int, train: Train) -> float:
    """Return the learning rate after `images_seen` images: a linear rise from 0 to the peak, then the decay.

    Cosine and linear decay end in 0 after the last image; exponential decay ends in `decay_to` of the peak. With
    `decay_every` the rate falls in steps of so many images, such as an epoch. With `decay_images` the decay ends after
    so many, the rate rises again as at the start, and stays. Over the last `cooldown` images it falls to 0 in a
    straight line (Hägele et al. 2024).
    """
    rate, left = _before_cooldown(images_seen, train), max(train.images - images_seen, 0)
    return rate * left / train.cooldown if left < train.cooldown else rate


def _before_cooldown(images_seen: int, train: Train) -> float:
    if train.decay_images and images_seen >= train.decay_images:
        since = images_seen - train.decay_images
        return train.lr * since / train.warmup if since < train.warmup else train.lr
    if images_seen < train.warmup:
        return train.lr * images_seen / train.warmup
    decaying = images_seen - train.warmup
    decaying -= decaying % train.decay_every if train.decay_every else 0
    progress = min(decaying / max((train.decay_images or train.images) - train.warmup, 1), 1.0)
    if train.decay == "cosine":
        return train.lr * (1 + math.cos(math.pi * progress)) / 2
    if train.decay == "linear":
        return train.lr * (1 - progress)
    if train.decay == "exponential":
        return float(train.lr * train.decay_to**progress)
    assert train.decay == "constant", f"decay {train.decay!r}"
    return train.lr


def build_optimizer(
    module: nn.Module,
    lr: float,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.999),
    muon_lr: float = 0.0,
    dtype: torch.dtype = torch.float32,
) -> torch.optim.AdamW:
    """Return AdamW (Loshchilov & Hutter 2019) over a module's trainable parameters, fused where the device has that.

    Only the weights of linear maps and convolutions decay: not biases, norms and embeddings. With `muon_lr` those in
    repeated blocks take Muon's steps of that rate, orthogonalised in `dtype`.
    """
    decayed: list[nn.Parameter] = []
    undecayed: list[nn.Parameter] = []
    embeddings = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)}
    for parameter in module.parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            (decayed if decays else undecayed).append(parameter)
    groups: list[dict[str, Any]] = [{"params": decayed}, {"params": undecayed, "weight_decay": 0.0}]
    settings: dict[str, Any] = {
        "lr": lr,
        "betas": betas,
        "weight_decay": weight_decay,
        "fused": all(parameter.device.type in _FUSED for parameter in decayed + undecayed),
    }
    if not muon_lr:
        return torch.optim.AdamW([group for group in groups if group["params"]], **settings)

    # Muon's weights are taken out of AdamW's groups.
    weights = muon_weights(module)
    taken = {id(weight) for weight in weights}
    for group in groups:
        group["params"] = [p for p in group["params"] if id(p) not in taken]
    return MuonAdamW(weights, [group for group in groups if group["params"]], muon_lr / lr, dtype, **settings)


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float, sharded: bool = False) -> Tensor:
    """Scale the gradients down where their norm over all parameters exceeds `max_norm` > 0. Returns the norm before.

    As `torch.nn.utils.clip_grad_norm_`, but that 0 switches clipping off. sharded: the gradients are this process's
    rows, and the norm is that of all rows.
    """
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    if sharded:
        norm = torch.linalg.vector_norm(processes.all_gather_rows(norm.reshape(1)))
    if max_norm > 0:
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm


def optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """Return the state by parameter name: NAME.step, and NAME.exp_avg, NAME.exp_avg_sq or Muon's NAME.momentum_buffer.

    A parameter without a step so far is there with zeros, which is the state it starts from.
    """
    tensors = {}
    moments = _moments(optimizer)
    for name, parameter in _named(optimizer, module).items():
        state = optimizer.state.get(parameter, {})
        for moment in moments[parameter]:
            tensors[f"{name}.{moment}"] = state.get(moment, torch.zeros_like(parameter)).detach()
        tensors[f"{name}.step"] = torch.as_tensor(state.get("step", 0.0), dtype=torch.float32)
    return tensors


def load_optimizer_state(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Continue from what `optimizer_state` returned: the next steps are those of an uninterrupted run, to the bit.

    Raises DataError naming a parameter that is missing, unknown or of another shape.
    """
    named, moments = _named(optimizer, module), _moments(optimizer)
    expected = {f"{name}.{key}": p.shape for name, p in named.items() for key in moments[p]}
    expected |= {f"{name}.step": torch.Size() for name in named}
    for key in sorted(expected.keys() | tensors.keys()):
        if key not in tensors or key not in expected or tensors[key].shape != expected[key]:
            raise DataError(f"the checkpoint's optimizer state does not fit this network at {key}")
    names = {parameter: name for name, parameter in named.items()}
    order = [p for group in optimizer.param_groups for p in group["params"]]
    # The fused kernel needs moments in the parameter's memory format (channels last, for some), which files lack.
    state = {
        i: {
            **{moment: torch.empty_like(p).copy_(tensors[f"{names[p]}.{moment}"]) for moment in moments[p]},
            "step": tensors[f"{names[p]}.step"].to(torch.float32, copy=True),
        }
        for i, p in enumerate(order)
    }
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _moments(optimizer: torch.optim.Optimizer) -> dict[Tensor, tuple[str, ...]]:
    """Return the names of each parameter's moments."""
    groups = optimizer.param_groups
    return {p: _MUON_MOMENTS if "relative" in group else _MOMENTS for group in groups for p in group["params"]}


def _named(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the optimizer's parameters by their names in the module."""
    own = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = {name: p for name, p in module.named_parameters() if id(p) in own}
    assert len(named) == len(own), "the optimizer steps parameters that are not the module's"
    return named
