"""A tiny multi-scale quantiser and transformer with weights written by rule, under the names of the authors' code.

The authors' code (Tian et al. 2024, models/vqvae.py and models/var.py) with the same weights gave the numbers of the
tests beside.
"""

import torch

from ldm.core.autoencoders.msvq_config import MSVQConfig
from ldm.core.autoencoders.multiscale import MultiScaleQuantizer
from ldm.core.autoregressive.var import NextScaleTransformer
from ldm.core.autoregressive.var_config import NextScaleConfig
from tests.support.golden import filled

CODEC = MSVQConfig(
    codebook_size=64, latent_channels=8, scales=(1, 2, 3, 4), channels=32, channel_multipliers=(1, 2), patch=1
)
NETWORK = NextScaleConfig(
    scales=(1, 2, 3, 4), codebook_size=64, code_channels=8, num_classes=10, depth=2, width=64, heads=2
)
_NAMES = {
    "label.table": "class_emb",
    "start": "pos_start",
    "positions": "pos_1LC",
    "levels": "lvl_embed.weight",
    "inputs": "word_embed",
    "final_modulation": "head_nm.ada_lin.1",
    "attention.log_scale": "attn.scale_mul_1H11",
    "attention.qkv": "attn.mat_qkv",
    "attention.out": "attn.proj",
    "attention.": "attn.",
    "mlp.up": "ffn.fc1",
    "mlp.down": "ffn.fc2",
    "modulation.": "ada_lin.1.",
}


def authors_name(name: str) -> str:
    """Return the name of one of our parameters in the authors' code."""
    for ours, theirs in _NAMES.items():
        if ours in name:
            return name.replace(ours, theirs)
    return name


def quantizer() -> MultiScaleQuantizer:
    made = MultiScaleQuantizer(CODEC)
    made.codebook.codes.copy_(filled("quantize.embedding.weight", (64, 8), 1))
    with torch.no_grad():
        for i, mixer in enumerate(made.mixers):
            for name, parameter in mixer.named_parameters():
                parameter.copy_(filled(f"quantize.quant_resi.qresi_ls.{i}.{name}", tuple(parameter.shape)))
    return made


def transformer() -> NextScaleTransformer:
    made = NextScaleTransformer(NETWORK)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            theirs, shape = authors_name(name), tuple(parameter.shape)
            if theirs == "head.bias":
                parameter.zero_()
            elif name.endswith("log_scale"):
                parameter.fill_(4).log_().add_(filled(theirs, shape, 0.3))
            else:
                parameter.copy_(filled(theirs, shape, {"head.weight": 1.0, "word_embed.weight": 0.5}.get(theirs)))
    return made


def latents() -> torch.Tensor:
    return 1.5 * filled("input.f", (2, 8, 4, 4), 1)
