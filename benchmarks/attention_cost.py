"""Linear attention beside softmax attention, as latents grow from 64 to 16,384 tokens.

The same network, a `linear-dit-xs` of one block, with either: time and memory of a training step, and of a pass of
sampling with guidance. Memory is that of the tensors made, at its most, counted without computing.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.layers import Attention
from ldm.core.denoisers.registry import build, outline
from ldm.core.figures import Panel, line, svg
from ldm.core.settings.families import config_of_preset
from ldm.core.system.compile import maybe_compile
from ldm.core.system.flops import Watch, tree_tensors
from ldm.core.system.precision import Policy, for_inference, resolve

from . import page
from .interleaved import compare
from .options import Options

SIDES = (8, 16, 32, 64, 128)  # of latents, whose pixels are the tokens
COMPILED = 16  # the longest side at which compiled code is measured, too: each takes half a minute to compile
TOKENS_AT_ONCE = 4096
CHANNELS, DEPTH = 32, 1
PICTURE = "performance-attention.svg"
LINEAR, SOFTMAX = "linear", "softmax"


def measure(options: Options) -> dict[str, Any]:
    """Time both at every size, count their memory, and draw both over the number of tokens."""
    policy = resolve("cpu")
    comparisons, facts = {}, {}
    seconds: dict[str, dict[str, list[tuple[float, float]]]] = {"step": {}, "sampling": {}}
    for side in SIDES:
        tokens, batch = side**2, max(1, TOKENS_AT_ONCE // side**2)
        for kind, make in (("step", _step), ("sampling", _sampling)):
            variants = {name: make(name, side, batch, policy) for name in (SOFTMAX, LINEAR)}
            if side <= COMPILED and kind == "step":
                variants[f"{LINEAR}, compiled"] = make(LINEAR, side, batch, policy, True)
            found = compare(variants, 5, warmup=1, baseline=SOFTMAX)
            comparisons[f"{kind}, {tokens:,} tokens, batch {batch}"] = found
            for name, row in found["variants"].items():
                seconds[kind].setdefault(name, []).append((tokens, row["seconds"] / batch))
        for kind in ("step", "sampling"):
            megabytes = [_bytes(name, side, batch, policy, kind == "step") / batch / 1e6 for name in (SOFTMAX, LINEAR)]
            said = ", ".join(f"{name} {value:,.1f}" for name, value in zip((SOFTMAX, LINEAR), megabytes, strict=True))
            facts[f"MB an image, {kind}, {tokens:,} tokens"] = said
    for kind, lines in seconds.items():
        crossed = _crossing(lines[SOFTMAX], lines[LINEAR])
        facts[f"{kind}: linear attention is faster from"] = f"{crossed:,} tokens on" if crossed else "no size here"
    lines = [
        line(f"{name}, {kind}", points, colour, True)
        for kind, found in seconds.items()
        for colour, (name, points) in enumerate(found.items(), start=3 * (kind == "sampling"))
        if len(points) == len(SIDES)
    ]
    panel = Panel("", "tokens", "seconds an image", lines, log="xy")
    page.PAGE.with_name(PICTURE).write_text(svg(panel).replace("currentColor", page._INK))
    return {"conditions": {"dtype": policy.name, "blocks": DEPTH}, "facts": facts, "comparisons": comparisons}


def _network(attention: str, side: int, make: Callable[..., Any] = build) -> Any:
    """Return the network with one kind of attention or the other."""
    torch.manual_seed(0)
    sizes = {"latent_channels": CHANNELS, "latent_size": side, "num_classes": 10, "depth": DEPTH}
    config = config_of_preset("linear-dit-xs", FAMILIES, **sizes)
    network = make(config)
    if attention == SOFTMAX:
        for block in network.blocks:
            with torch.device(next(network.parameters()).device):
                block.attention = Attention(config.width, config.heads, qk_norm=False)  # type: ignore[attr-defined]
    return network


def _inputs(side: int, batch: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    return torch.randn(batch, CHANNELS, side, side), torch.rand(batch), {"labels": torch.arange(batch) % 10}


def _step(attention: str, side: int, batch: int, policy: Policy, compiled: bool = False) -> Callable[[], object]:
    network, given = _network(attention, side), _inputs(side, batch)
    maybe_compile(network, compiled, policy.device)

    def step() -> None:
        with policy.autocast():
            loss = network(*given).square().mean()
        loss.backward()
        network.zero_grad()

    return step


def _sampling(attention: str, side: int, batch: int, policy: Policy) -> Callable[[], object]:
    """Return a pass with and without condition, of which sampling takes one a step."""
    network, given = for_inference(_network(attention, side), policy), _inputs(side, 2 * batch)

    @torch.no_grad()
    def work() -> None:
        with policy.autocast():
            network(*given)

    return work


def _bytes(attention: str, side: int, batch: int, policy: Policy, training: bool) -> int:
    """Return the bytes of tensors made in a step, or in a pass of sampling, at their most."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        network, given = _network(attention, side, lambda config: outline(config, "cpu")), _inputs(side, batch)
        with Watch(tree_tensors(network, given)) as watch, torch.set_grad_enabled(training), policy.autocast():
            out = network(*given)
            if training:
                out.square().mean().backward()
    return watch.peak


def _crossing(slower: Iterable[tuple[float, float]], faster: Iterable[tuple[float, float]]) -> int | None:
    """Return from where on the second line stays below the first, between the points where it does; None for never."""
    points = [(n, math.log(a / b)) for (n, a), (_, b) in zip(slower, faster, strict=True)]
    above = [place for place, (_, gain) in enumerate(points) if gain <= 0]
    if not above:
        return round(points[0][0])
    if above[-1] == len(points) - 1:
        return None
    (low, worse), (high, better) = points[above[-1]], points[above[-1] + 1]
    return round(low * (high / low) ** (-worse / (better - worse)))
