"""The project's own families of codecs: one line each. Imports no torch."""

from ..settings.families import Family
from .identity_config import IdentityConfig
from .kl_config import KLConfig
from .vq_config import VQVAEConfig

FAMILIES: dict[str, Family] = {
    "vqvae": Family(VQVAEConfig, "vq:VQVAE", exporter="vqmodel"),
    "kl": Family(KLConfig, "kl:KLAutoencoder", exporter="autoencoder_kl"),
    "identity": Family(IdentityConfig, "identity:IdentityCodec"),
}
