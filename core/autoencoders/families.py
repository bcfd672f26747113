"""The families of autoencoders that are trained here: one line each. Imports no torch."""

from ..settings.families import Family
from .vq_config import VQVAEConfig

FAMILIES: dict[str, Family] = {
    "vqvae": Family(VQVAEConfig, "vq:VQVAE"),
}
