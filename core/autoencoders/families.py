"""The families of codecs, the project's own and those of others: one line each. Imports no torch."""

from ..settings.families import Family
from .dc_config import DCConfig
from .identity_config import IdentityConfig
from .kl_config import KLConfig
from .msvq_config import MSVQConfig
from .published_config import PublishedConfig, TAEF2Config
from .vq_config import VQVAEConfig

FAMILIES: dict[str, Family] = {
    "vqvae": Family(VQVAEConfig, "vq:VQVAE", exporter="vqmodel"),
    "kl": Family(KLConfig, "kl:KLAutoencoder", exporter="autoencoder_kl"),
    "msvq": Family(MSVQConfig, "msvq:MSVQ"),
    "dc": Family(DCConfig, "dc:DCAutoencoder", exporter="autoencoder_dc"),
    "identity": Family(IdentityConfig, "identity:IdentityCodec"),
    # Those of others, which are read from a folder.
    "taef2": Family(TAEF2Config, "taef2:TAEF2"),
    "AutoencoderKL": Family(PublishedConfig, "pretrained:AutoencoderKL", exporter="diffusers_vae"),
    "AutoencoderTiny": Family(PublishedConfig, "pretrained:AutoencoderTiny", exporter="diffusers_vae"),
    "AutoencoderDC": Family(PublishedConfig, "pretrained:AutoencoderDC", exporter="diffusers_vae"),
    "VQModel": Family(PublishedConfig, "pretrained:VQModel", exporter="diffusers_vae"),
}
