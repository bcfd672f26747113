"""A VQ-VAE's training step, and images to indices of codes, against diffusers' VQModel of the same layers.

All levels are of one width, since only then are both networks the same, layer by layer: diffusers changes widths in
residual blocks, ours in resamplers. Both are trained on the L1 and the codebook's loss, with clipping, AdamW and a
EMA: ours in the loop of `ldm train-vqvae`, which counts codes and checks for finite numbers besides;
diffusers' as its own example trains it, without perceptual loss and discriminator. Patches are folded by hand for it.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ldm.core.autoencoders.codec import Draws
from ldm.core.autoencoders.quantizers import nearest_code
from ldm.core.images.decode import as_tensor
from ldm.core.images.sets import ImageSets
from ldm.core.runs.outputs import machine_policy
from ldm.core.training.step import Stepper
from ldm.core.training.task import Plan
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.stages.configs import TrainAutoencoder, TrainVQVAE
from ldm.stages.tools import dummy

from .options import Options
from .processes import Variant, Work, compare_processes

PEER = "diffusers VQModel"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NORM_GROUPS = 8  # as all presets of ours have
NUM_BATCHES = 4


@dataclass(frozen=True)
class Setup:
    """A batch of `images` of 64 × 64, and a network of `levels` levels, all `width` wide, over patches of pixels."""

    images: int
    patch: int
    width: int
    levels: int
    blocks: int
    attention: bool
    codes: int = 1024
    channels: int = 4
    side: int = 64

    @property
    def title(self) -> str:
        patches = f"patches of {self.patch}, " if self.patch > 1 else ""
        attention = ", attention" if self.attention else ""
        return (
            f"{self.images} images of {self.side} × {self.side}: {patches}{self.levels} levels {self.width} wide, "
            f"{self.blocks} and {self.blocks + 1} blocks each{attention}, {self.codes:,} codes"
        )


SETUPS = (
    Setup(images=16, patch=1, width=64, levels=3, blocks=2, attention=True),
    Setup(images=32, patch=2, width=96, levels=2, blocks=1, attention=False),  # much like the recipe imagenette-64
)


def measure(options: Options) -> dict[str, Any]:
    """Compare training steps, and encoding, of both setups."""
    works = {"Training step": (peer_training, training), "To indices": (peer_encoding, encoding)}
    return compare_setups(SETUPS, works, PEER, options)


def compare_setups(
    setups: Sequence[Any], works: Mapping[str, tuple[Callable[..., Work], ...]], peer: str, options: Options
) -> dict[str, Any]:
    """Compare the peer's work with ours, (theirs, own) by title, of each setup in each dtype."""
    comparisons = {}
    for setup in setups:
        for title, pair in works.items():
            variants = {
                f"{name}, {precision}": Variant(work, {"setup": setup, "precision": precision})
                for name, work in zip((peer, "ldm"), pair, strict=True)
                for precision in DTYPES
            }
            compared = compare_processes(variants, options.rounds, baseline=f"{peer}, fp32")
            comparisons[f"{title}, {setup.title}"] = compared
    return {"comparisons": comparisons}


def training(setup: Setup, precision: str) -> Work:
    """Return a step of `ldm train-vqvae`."""
    return own_step(_config(setup, precision))


def own_step(config: TrainAutoencoder) -> Work:
    """Return a step of our training."""
    task = task_of(config)
    stepper = Stepper(task, Plan(**config.train.model_dump(), seed=0), task.policy)
    several, numbers = batches(config), itertools.count()
    positions = np.arange(config.train.batch_size)

    def step() -> float:
        stepper.step((next(several), Draws(0, 0, positions), None), next(numbers), 0)
        return stepper.meter.flush()["loss"]

    return step


def encoding(setup: Setup, precision: str) -> Work:
    """Return the encoding of a batch to the indices of its codes."""
    config = _config(setup, precision)
    task = task_of(config)
    codec, several = task.codec.eval(), batches(config)

    @torch.no_grad()
    def encode() -> Tensor:
        with task.policy.autocast():
            latents = codec.encode(next(several)).mean
        return nearest_code(latents.movedim(1, -1).flatten(0, -2), codec.quantizer.codes)

    return encode


def peer_training(setup: Setup, precision: str) -> Work:
    """Return a step as diffusers' examples take it."""
    network = _peer(setup)

    def loss_of(images: Tensor) -> Tensor:
        images = F.pixel_unshuffle(images, setup.patch)
        decoded, codebook_loss = network(images, return_dict=False)
        return F.l1_loss(decoded.float(), images) + codebook_loss

    return peer_step(network, loss_of, _config(setup, precision), precision)


def peer_step(
    network: nn.Module, loss_of: Callable[[Tensor], Tensor], config: TrainAutoencoder, precision: str
) -> Work:
    """Return a step of a network as diffusers' examples take it. loss_of: of images (B, 3, H, W)."""
    from diffusers.training_utils import EMAModel

    several, plan = batches(config), config.train
    average = EMAModel(network.parameters(), decay=plan.ema)
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=plan.lr, betas=(plan.beta1, plan.beta2), weight_decay=plan.weight_decay
    )

    def step() -> float:
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            loss = loss_of(next(several))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), plan.clip)
        optimizer.step()
        optimizer.zero_grad()
        average.step(network.parameters())
        return loss.item()

    return step


def peer_encoding(setup: Setup, precision: str) -> Work:
    """Return what diffusers does to the same end."""
    network, several = _peer(setup).eval(), batches(_config(setup, precision))

    @torch.no_grad()
    def encode() -> Tensor:
        images = F.pixel_unshuffle(next(several), setup.patch)
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "fp32"):
            latents = network.encode(images).latents
        return network.quantize(latents.float())[2][2]

    return encode


def _config(setup: Setup, precision: str) -> TrainVQVAE:
    """Return the settings under which `ldm train-vqvae` trains a setup."""
    model = {
        "preset": "vqvae-s",
        "channels": setup.width,
        "channel_multipliers": [1] * setup.levels,
        "patch": setup.patch,
        "num_res_blocks": setup.blocks,
        "num_decoder_blocks": setup.blocks + 1,
        "middle_blocks": True,
        "attention": setup.attention,
        "codebook_size": setup.codes,
        "latent_channels": setup.channels,
    }
    return TrainVQVAE.model_validate(settings_of(model, setup.side, setup.images, precision))


def settings_of(model: dict[str, Any], side: int, images: int, precision: str) -> dict[str, Any]:
    """Return the settings under which an autoencoder is trained on batches of `images` images of `side` pixels."""
    return {
        "data": {"image_size": side},
        "model": model,
        "train": {"batch_size": images, "warmup": 0},
        "machine": {"device": "cpu", "precision": precision},
    }


def task_of(config: TrainAutoencoder) -> AutoencodingTask:
    """Return our network, in a process set up as the stage sets up its own."""
    return AutoencodingTask(config, _images(config), machine_policy(config.machine))


def _images(config: TrainAutoencoder) -> ImageSets:
    return dummy.images(config.data, num_classes=1, count=NUM_BATCHES * config.train.batch_size)


def batches(config: TrainAutoencoder) -> Iterator[Tensor]:
    """Repeat a few batches of noise for ever, (B, 3, H, W) in [-1, 1], the same for both projects."""
    rows = np.arange(NUM_BATCHES * config.train.batch_size).reshape(NUM_BATCHES, -1)
    images = _images(config).train
    return itertools.cycle([as_tensor(images.batch(part)) for part in rows])


def _peer(setup: Setup) -> Any:
    """Return the peer's network, of as many weights as ours but for two 1 × 1 convolutions and folded patches."""
    from diffusers import VQModel

    torch.manual_seed(0)
    return VQModel(
        in_channels=3 * setup.patch**2,
        out_channels=3 * setup.patch**2,
        down_block_types=("DownEncoderBlock2D",) * setup.levels,
        up_block_types=("UpDecoderBlock2D",) * setup.levels,
        block_out_channels=(setup.width,) * setup.levels,
        layers_per_block=setup.blocks,
        latent_channels=setup.channels,
        num_vq_embeddings=setup.codes,
        norm_num_groups=NORM_GROUPS,
        mid_block_add_attention=setup.attention,
    )
