"""A next-scale transformer over a codec's tokens, as the loop trains it."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ... import seeds
from ...autoencoders.codec import Autoencoder
from ...autoencoders.multiscale import quantizer_of
from ...autoregressive import registry
from ...autoregressive.sampling import TokenSampling
from ...autoregressive.var import NextScaleTransformer
from ...autoregressive.var_config import NextScaleConfig
from ...conditioning.conditioning import Conditioning, drop
from ...conditioning.registry import conditioning_of
from ...diffusion.conditions import Cond
from ...errors import ConfigError, DataError
from ...images.order import pieces, spread
from ...images.weights import loss_weights
from ...latents.dataset import VALIDATION_SEED, LatentSets, TokenDataset, weights_of
from ...latents.fields import TOKENS
from ...pipeline.token_drawing import TokenGenerator
from ...pipeline.training_data import TrainingData
from ...system.compile import maybe_compile, should_compile
from ...system.precision import Policy
from ...system.transfer import split_batch, to_device
from ...training import loop
from ...training.preview import draw_preview, write_preview
from .settings import NextScaleTraining

VALIDATION_SAMPLES = 1024
_AT_ONCE = 64
# Tokens (B, L), conditions, draws for stochastic depth (B, depth, 2), and where there are masks their weights.
Data = tuple[Tensor, Cond, Tensor, Tensor | None]


def network_config(config: NextScaleTraining, data: TrainingData, autoencoder: Autoencoder) -> NextScaleConfig:
    """Return the network that the settings and the tokens ask for. Raises ConfigError if they do not fit together."""
    quantizer_of(autoencoder.codec)
    if TOKENS not in (data.described.metadata.get("fields") or {}):
        raise DataError(f"{data.described.path} holds no tokens", data.described.remedy)
    return network_of(config, autoencoder, data.conditioning)


def network_of(config: NextScaleTraining, autoencoder: Autoencoder, conditioning: Conditioning) -> NextScaleConfig:
    """Return the network of an autoencoder's tokens and a condition. Raises ConfigError where it takes neither."""
    codec = quantizer_of(autoencoder.codec).config
    if set(conditioning.fields) - set(NextScaleTransformer.fields):
        raise ConfigError(
            f"a next-scale transformer is conditioned on labels or nothing, not on {conditioning.kind}",
            "train it with `conditioning=labels`, where the images have class folders, or `conditioning=none`",
        )
    network = config.model.network_config(
        scales=codec.scales,
        codebook_size=codec.codebook_size,
        code_channels=codec.latent_channels,
        label_dropout=config.label_dropout if conditioning.has_null else 0.0,
        **conditioning.sizes,
    )
    assert isinstance(network, NextScaleConfig)
    return network


class NextScaleTask:
    """Cross-entropy of tokens, all scales at once (teacher forcing), as `core.training.loop` trains it.

    autoencoder: whose codec gave the tokens; its quantiser turns them into the network's inputs.
    """

    def __init__(
        self,
        config: NextScaleTraining,
        network: NextScaleConfig,
        latents: LatentSets,
        autoencoder: Autoencoder,
        policy: Policy,
    ) -> None:
        self.config, self.policy, self.autoencoder, self.latents = config, policy, autoencoder, latents
        self.num_samples = len(latents.train)
        self.conditioning = conditioning_of({"conditioning": latents.conditioning.describe()}, config.label_dropout)
        self.quantizer = quantizer_of(autoencoder.codec)

        # Weights depend on the seed alone: neither on the data nor on the device.
        seeds.seed_everything(config.seed, "generator weights")
        self.network = registry.build(network).to(policy.device)
        flops = self.network.training_flops * config.train.images
        maybe_compile(self.network, should_compile(config.machine.compile, flops, policy.device), policy.device)
        self.scales = network.scales
        self.modules: nn.Module = self.network
        self.averaged: nn.Module = self.network
        self.networks: dict[str, nn.Module] = {"generator": self.network}
        self.synchronous = False

    def labels(self) -> tuple[np.ndarray, tuple[str, ...]] | None:
        """Return the classes of the latents."""
        return self.latents.labels()

    def load(self, batch: loop.Batch) -> Data:
        """Return tokens, conditions, and draws; all follows from the seed and stream positions."""
        seed, positions, train = self.config.seed, batch.positions, _tokens_of(self.latents.train)
        tokens = train.tokens(batch.samples, positions, seed)

        # Conditions, some replaced by the null for classifier-free guidance (Ho & Salimans 2022).
        cond = train.cond(batch.samples, positions, seed)
        dropped = seeds.uniform(seed, "label dropout", positions)
        cond = drop(self.conditioning, cond, dropped, self.config.label_dropout)
        keep = seeds.uniform(seed, "stochastic depth", positions, (self.network.config.depth, 2)).float()
        return tokens, cond, keep, weights_of(self.latents.train, batch.samples, positions, seed)

    def split(self, data: Data, parts: int) -> list[Data]:
        return split_batch(data, parts)

    def loss(self, role: str, data: Data) -> tuple[Tensor, dict[str, Tensor]]:
        by_scale = self._losses(*to_device(data, self.policy.device))
        numbers = zip(self.scales, by_scale.detach(), strict=True)
        return self._mean(by_scale), {f"loss_{side}": each for side, each in numbers}

    def after_step(self, accepted: bool) -> None:
        """Nothing but the weights changes with a step."""

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Return the loss on held-out tokens, in nats per token; over all, and of each scale, named by its side."""
        val = _tokens_of(self.latents.val)
        chosen = spread(len(val), VALIDATION_SAMPLES)
        total = torch.zeros(len(self.scales), dtype=torch.float64)
        for some in pieces(chosen, _AT_ONCE):
            weights = weights_of(self.latents.val, some, some, VALIDATION_SEED, flips=False)
            data = val.tokens(some, some, VALIDATION_SEED, flips=False), val.cond(some, some), None, weights
            with self.policy.autocast():
                total += self._losses(*to_device(data, self.policy.device)).double().cpu() * len(some)
        by_scale = total / len(chosen)
        numbers = {f"val_loss_{side}": float(each) for side, each in zip(self.scales, by_scale, strict=True)}
        return {"val_loss": float(self._mean(by_scale)), **numbers}

    def picture(self, folder: Path, images_seen: int) -> None:
        """Write a grid of samples, one row per class, always of the same seeds; guided where there is a null."""
        preview = self.config.preview
        sampling = TokenSampling(cfg=preview.cfg if self.conditioning.has_null else 1.0)
        images, names = draw_preview(self.generator(sampling), self.conditioning, preview)
        write_preview(folder, images_seen, images, names, preview.per_class)

    def generator(self, sampling: TokenSampling) -> TokenGenerator:
        """Return the network in training as what draws samples."""
        return TokenGenerator(self.network, self.autoencoder, self.conditioning, sampling, self.policy)

    def _losses(self, tokens: Tensor, cond: Cond, keep: Tensor | None, weights: Tensor | None) -> Tensor:
        """Return the mean cross-entropy of each scale's tokens, float32 (K,)."""
        with torch.no_grad():
            inputs = self.quantizer.inputs(self._maps(tokens))
        logits = self.network(inputs, cond, keep)
        each = F.cross_entropy(logits.float().flatten(0, 1), tokens.flatten(), reduction="none").view(tokens.shape)
        each = each if weights is None else each * token_weights(weights, self.scales)
        return torch.stack([part.mean() for part in each.split(self.network.config.tokens_of_scale, dim=1)])

    def _maps(self, tokens: Tensor) -> list[Tensor]:
        """Return tokens (B, L) as a map (B, p, p) for each scale."""
        config = self.network.config
        parts = zip(tokens.split(config.tokens_of_scale, dim=1), config.scales, strict=True)
        return [part.reshape(len(tokens), side, side) for part, side in parts]

    def _mean(self, by_scale: Tensor) -> Tensor:
        """Return the mean over all tokens of what was averaged over each scale's (K,)."""
        sizes = torch.tensor(self.network.config.tokens_of_scale, dtype=by_scale.dtype, device=by_scale.device)
        return (by_scale * sizes).sum() / sizes.sum()


def token_weights(weights: Tensor, scales: Sequence[int]) -> Tensor:
    """Return how much each token counts, (B, L), of mean 1 in each scale: the mean of what it covers.

    weights: (B, 1, h, w), of the latent's pixels.
    """
    return torch.cat([loss_weights(F.adaptive_avg_pool2d(weights, side)).flatten(1) for side in scales], dim=1)


def _tokens_of(dataset: object) -> TokenDataset:
    assert hasattr(dataset, "tokens"), "a data set with tokens"
    return dataset  # type: ignore[return-value]
