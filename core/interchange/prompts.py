"""Prompts as tensors: what a network of diffusers takes of a text whose encoder is not part of it."""

from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from ..conditioning.conditioning import Conditioning, Request
from ..conditioning.text import MASK, POOLED, TOKENS
from ..denoisers.network import DenoiserNetwork
from ..denoisers.text import TextInput
from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..files import write_atomically

PROMPTS = "prompts.safetensors"
NEGATIVE = "negative"
NAMES = {TOKENS: "prompt_embeds", POOLED: "pooled_prompt_embeds"}  # as pipelines call them


def embedded(network: DenoiserNetwork, cond: Cond) -> Cond:
    """Return a condition of one and the same text (or class that stands for one), as vectors and without padding.

    tokens: (B, N, W). pooled: (B, P). Of networks that read no texts, the condition as it is.
    """
    text = getattr(network, "text", None)
    if not isinstance(text, TextInput):
        return cond
    tokens, mask, pooled = text(cond)
    return {**{name: each for name, each in cond.items() if name != MASK}, TOKENS: tokens[:, mask[0]], POOLED: pooled}


def write_prompts(path: Path, network: DenoiserNetwork, conditioning: Conditioning, request: Request) -> None:
    """Write the vectors of each prompt, and of the null, if there is one; the prompts themselves are in the header.

    `0.prompt_embeds` (1, N, W) and `0.pooled_prompt_embeds` (1, P) are those of the first prompt, float32, and
    `negative.…` those of the null.
    """
    rows = {str(row): conditions.index(request.cond, [row]) for row in range(len(request.titles))}
    if conditioning.has_null:
        device = next(network.parameters()).device
        rows[NEGATIVE] = conditioning.null(1, device)
    tensors: dict[str, Tensor] = {}
    for name, cond in rows.items():
        vectors = embedded(network, cond)
        tensors |= {f"{name}.{theirs}": vectors[ours].float().contiguous() for ours, theirs in NAMES.items()}
    titles = {str(row): title for row, title in enumerate(request.titles)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=titles))
