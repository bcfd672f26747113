"""What every denoiser's network has to do, whatever its family: checks that the tests of families share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ldm.core.denoisers.config import DenoiserConfig
from ldm.core.denoisers.registry import build
from ldm.core.diffusion.conditions import Cond

Given = tuple[Tensor, Tensor, Cond]


def awake(config: DenoiserConfig, seed: int = 0) -> Any:
    """Return one with random weights throughout, so that no zero hides a block."""
    torch.manual_seed(seed)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def check_checkpointing(config: DenoiserConfig, given: Given, rtol: float = 1e-5) -> None:
    """See that activations that are recomputed give the same gradients."""
    gradients = []
    for checkpointing in (False, True):
        model = awake(config).train()
        model.checkpointing = checkpointing
        model(*given).square().mean().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=rtol, atol=1e-7)


def squares(out: Tensor, x: Tensor) -> Tensor:
    return (out - x).square().mean()


def check_learning(
    config: DenoiserConfig,
    given: Given,
    lr: float,
    steps: int = 15,
    falls_to: float = 0.7,
    error: Callable[[Tensor, Tensor], Tensor] = squares,
) -> None:
    """See that training a network to give x itself lowers its loss, and changes every weight."""
    torch.manual_seed(0)
    model = build(config)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=lr), list[float]()
    for _ in range(steps):
        loss = error(model(*given), given[0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < falls_to * losses[0]
    assert [name for name, parameter in model.named_parameters() if torch.equal(parameter, before[name])] == []
