"""Images from a generator of tokens: what `ldm sample` and evaluation in training see of a next-scale transformer."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..autoencoders.codec import Autoencoder, TokenCodec
from ..autoencoders.multiscale import quantizer_of
from ..autoregressive import registry
from ..autoregressive.sampling import Given, TokenSampling, draw_tokens
from ..autoregressive.var import NextScaleTransformer
from ..conditioning.conditioning import Conditioning, unconditional
from ..conditioning.registry import conditioning_of
from ..diffusion import conditions
from ..diffusion.conditions import Cond
from ..errors import ConfigError
from ..images.decode import as_tensor
from ..runs.inputs import as_input, open_producer
from ..runs.roles import AUTOENCODER, NEXT_SCALE
from ..runs.run import StageRun
from ..system.compile import maybe_compile
from ..system.memory import filled_chunks
from ..system.precision import Policy, for_inference
from ..system.transfer import to_device
from .generation import chunk_size
from .generator import Generator, OnStep, refuse_settings
from .loading import load_autoencoder, open_state, state_of
from .model import decoded
from .settings import Drawing, TokenDrawing

DEFAULT_CFG = 2.5  # the paper's 1.5, of a model with a null class
_TAKES = ("denoiser", "checkpoint", "cfg", "cfg_paper", *TokenDrawing.model_fields)


@dataclass(frozen=True)
class TokenGenerator:
    """A next-scale transformer, the autoencoder of its tokens, and how it is sampled: a `Generator`."""

    network: NextScaleTransformer
    autoencoder: Autoencoder
    conditioning: Conditioning
    sampling: TokenSampling
    policy: Policy

    @property
    def at_once(self) -> int:
        config = self.network.config
        return chunk_size((config.code_channels, config.scales[-1], config.scales[-1]), self.policy)

    def draw(
        self, cond: Cond, seeds: np.ndarray, on_step: OnStep | None = None, given: Given | None = None
    ) -> np.ndarray:
        """Return an image for each seed; see `Generator`. given: tokens that are not drawn, of every image."""
        quantizer, size = quantizer_of(self.autoencoder.codec), self.at_once
        pieces = []
        for filled, count in filled_chunks(len(seeds), size):

            def show(scale: int, total: Tensor, count: int = count) -> None:
                assert on_step is not None, "called only with on_step"
                on_step(scale, lambda: {"scales so far": self.decode(total[:count])})

            latents = draw_tokens(
                self.network,
                quantizer,
                to_device(conditions.index(cond, filled), self.policy.device),
                partial(unconditional, self.conditioning),
                seeds[filled],
                self.sampling,
                self.policy,
                None if given is None else given.of(filled),
                show if on_step else None,
            )
            pieces.append(self.decode(latents)[:count])
        return np.concatenate(pieces)

    def tokens(self, images: np.ndarray) -> list[Tensor]:
        """Return the maps of tokens, each int64 (B, p, p) on the device, of images, uint8 (B, H, W, C)."""
        size, pieces = self.at_once, []
        # As many together as are drawn: of other numbers, products round differently and tokens may differ.
        for filled, count in filled_chunks(len(images), size):
            with torch.no_grad(), self.policy.autocast():
                maps = self._codec.tokens(to_device(as_tensor(images[filled]), self.policy.device))
            pieces.append([each[:count] for each in maps])
        return [torch.cat(maps) for maps in zip(*pieces, strict=True)]

    @property
    def _codec(self) -> TokenCodec:
        quantizer_of(self.autoencoder.codec)
        return cast(TokenCodec, self.autoencoder.codec)

    def decode(self, latents: Tensor) -> np.ndarray:
        """Return images, uint8 (B, H, W, C), of f̂ (B, C, h, w), which is not normalised."""
        return decoded(self.autoencoder.codec.decode, latents, self.autoencoder.downsampling, self.policy)


@dataclass(frozen=True)
class OpenedNextScale:
    """A next-scale transformer's directory: an `Opened`."""

    source: StageRun
    conditioning: Conditioning
    sampling: TokenSampling
    shows_steps = True

    @property
    def label(self) -> str:
        how = self.sampling
        named = {"k": how.top_k, "p": how.top_p if how.top_p < 1 else 0}
        return "_".join([f"cfg-{how.cfg:g}", *(f"top-{name}-{value:g}" for name, value in named.items() if value)])

    @property
    def settings(self) -> dict[str, Any]:
        return dict(vars(self.sampling))

    @property
    def evaluations(self) -> int:
        passes = len(self.source.metadata["scales"])
        return passes if self.sampling.cfg == 1.0 else 2 * passes

    def inputs(self, folder: Path) -> dict[str, dict[str, Any]]:
        """Return it as input of the stage in `folder`."""
        return {NEXT_SCALE.name: as_input(self.source, folder)}

    def generator(self, config: Drawing, policy: Policy) -> TokenGenerator:
        """Load the network and the autoencoder that its tokens came from. Raises DataError if that changed."""
        self.source.verify()
        producer = open_producer(self.source, "autoencoder", AUTOENCODER, config)
        network = for_inference(registry.load(self.source.path / "final"), policy)
        maybe_compile(network, bool(config.machine.compile), policy.device)
        autoencoder = load_autoencoder(producer, policy).network
        return TokenGenerator(network, autoencoder, self.conditioning, self.sampling, policy)

    def with_settings(self, generator: Generator) -> TokenGenerator:
        """Return a loaded generator of the same networks that draws as the settings say."""
        assert isinstance(generator, TokenGenerator), "loaded from the same directories"
        return replace(generator, sampling=self.sampling)

    def recorded(self, seed: int) -> dict[str, Any]:
        """Return what a manifest records of how images are drawn; there are as many steps as scales."""
        steps = len(self.source.metadata["scales"])
        return {"sampler": "next-scale", "steps": steps, **self.settings, "seed": seed, **state_of(self.source)}


def open_next_scale(config: Drawing) -> OpenedNextScale:
    """Open the next-scale transformer that the settings draw from. Raises ConfigError for settings of denoisers."""
    refuse_settings(config, Drawing, _TAKES, "a next-scale transformer")
    source = open_state(NEXT_SCALE, config.denoiser, config, config.checkpoint)
    conditioning = conditioning_of(source.metadata)
    scale = config.cfg if config.cfg_paper is None else 1 + config.cfg_paper
    of_tokens = {name: getattr(config, name) for name in TokenDrawing.model_fields}
    return OpenedNextScale(source, conditioning, token_sampling(conditioning.has_null, scale, **of_tokens))


def token_sampling(has_null: bool, cfg: float | None = None, **how: Any) -> TokenSampling:
    """Return how tokens are drawn; None is the default guidance. Raises ConfigError where there is no null."""
    if cfg not in (None, 1.0) and not has_null:
        raise ConfigError(
            f"`cfg={cfg:g}` needs a null class, but this model was trained with label dropout 0",
            "use `cfg=1`, or train with `label_dropout=0.1`",
        )
    return TokenSampling(cfg=(DEFAULT_CFG if has_null else 1.0) if cfg is None else cfg, **how)
