"""What encoding and drawing cost: passes without a way back."""

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...core.autoencoders.codec import Autoencoder
from ...core.conditioning.class_names import parse_classes
from ...core.conditioning.registry import conditioning_of
from ...core.denoisers import registry as denoisers
from ...core.diffusion import conditions, times
from ...core.errors import ConfigError
from ...core.estimation import cost
from ...core.estimation.kernels import COMPILED, denoiser_kernels, forward_kernels
from ...core.estimation.timing import seconds_of
from ...core.latents import shards
from ...core.pipeline.generation import Sampling, chunk_size, generate
from ...core.pipeline.loading import forward_process
from ...core.pipeline.model import Model
from ..configs import Sample
from .costs import StageCost
from .estimate_basis import Basis

_SHARD = 64  # samples in the shard that is written to be weighed
_TRIED_STEPS = 4


def encode(basis: Basis, autoencoder: Autoencoder) -> StageCost:
    """Count the encoding of all images, mirrored ones too, and weigh the latents on the disk."""
    stage, images, data = basis.stages.encode, basis.images, basis.stages.train_vqvae.data
    views, side = 2 if data.flip else 1, data.image_size
    operations = views * cost.count_forward(lambda: autoencoder.posterior(torch.zeros(1, 3, side, side)))
    total = None if images.train is None or images.val is None else images.train + images.val
    limit = None
    if basis.rate is not None:
        each = forward_kernels(lambda: autoencoder.posterior(torch.zeros(1, 3, side, side)))
        work = (operations * stage.batch_size, views * each)
        rate, limit = basis.how.gpus * stage.batch_size / basis.seconds_of(*work), basis.limit(*work)
    else:
        rate = basis.how.gpus / views / _seconds_to_encode(basis, autoencoder, stage.batch_size, side)
    fields = ["npy", "flip.npy"][:views]
    if autoencoder.posterior(torch.zeros(1, 3, side, side)).std is not None:
        fields += [field.replace("npy", "std.npy") for field in fields]
    return StageCost(
        "encode",
        images=total,
        batch=stage.batch_size,
        operations=operations,
        in_all=None if total is None else float(operations) * total,
        disk=None if total is None else round(bytes_of_a_latent(basis.latent_shape, fields) * total),
        rate=rate,
        limit=limit,
        seconds=None if total is None else total / rate,
    )


def bytes_of_a_latent(shape: tuple[int, int, int], fields: list[str]) -> float:
    """Return the bytes that a sample takes in a shard, measured on one that is written: names up to 400 bytes are
    padded to the same block."""
    arrays = {field: np.zeros(shape, dtype=np.float16) for field in fields}
    samples = [shards.LatentSample(arrays, 0, f"{number:06d}.png") for number in range(_SHARD)]
    with tempfile.TemporaryDirectory(prefix="ldm-shard-") as folder:
        path = Path(folder, shards.shard_name("train", 0))
        sizes = []
        for count in (0, _SHARD):
            shards.write_shard(path, 0, samples[:count])
            sizes.append(path.stat().st_size)
    return (sizes[1] - sizes[0]) / _SHARD


def _seconds_to_encode(basis: Basis, autoencoder: Autoencoder, batch: int, side: int) -> float:
    """Measure the seconds that a view of an image takes."""
    images = torch.zeros(batch, 3, side, side, device=basis.policy.device)
    autoencoder.to(basis.policy.device)

    @torch.no_grad()
    def work() -> None:
        with basis.policy.autocast():
            autoencoder.posterior(images)

    seconds = seconds_of(work, basis.policy.device, basis.how.seconds)
    autoencoder.to("cpu")
    return seconds / batch


def sample(basis: Basis, autoencoder: Autoencoder | None) -> StageCost:
    """Count the drawing of the recipe's samples, guided as it says."""
    stage, names = basis.stages.sample, basis.images.class_names
    try:
        chosen = len(parse_classes(stage.classes, names))
    except ConfigError:
        chosen = len(stage.classes.split(","))
        basis.note(f"--class {stage.classes} is taken for {chosen} classes")
    sampling = _sampling(stage, has_null=basis.stages.train_dit.label_dropout > 0)
    passes = _passes(sampling, basis.stages.train_dit.diffusion.num_steps)
    decode = 0
    if autoencoder is not None:
        decode = cost.count_forward(lambda: autoencoder.decode(torch.zeros(1, *basis.latent_shape)))
    operations = passes * cost.denoiser_operations(basis.network).forward + decode
    images = chosen * stage.num
    limit = None
    if basis.rate is not None:
        chunk = chunk_size(basis.latent_shape, basis.policy)  # which is filled up for fewer images
        # Guided and unguided, a batch is doubled: there are no more launches.
        looks = _passes(replace(sampling, cfg=1.0), basis.stages.train_dit.diffusion.num_steps)
        kernels = looks * denoiser_kernels(basis.network, basis.policy.dtype).forward
        if autoencoder is not None:
            kernels += forward_kernels(lambda: autoencoder.decode(torch.zeros(1, *basis.latent_shape)))
        work = (operations * chunk, kernels * (COMPILED if stage.machine.compile else 1))
        rate, limit = basis.how.gpus * min(chunk, images) / basis.seconds_of(*work), basis.limit(*work)
    elif autoencoder is None:
        rate = None
    else:
        rate = basis.how.gpus / _seconds_to_draw(basis, autoencoder, sampling)
    return StageCost(
        "sample",
        images=images,
        operations=operations,
        in_all=float(operations) * images,
        rate=rate,
        limit=limit,
        seconds=None if rate is None else images / rate,
    )


def _sampling(stage: Sample, has_null: bool) -> Sampling:
    """Return what of the settings says how long an image takes."""
    scale = stage.cfg if stage.cfg_paper is None else 1 + stage.cfg_paper
    guided = (3.0 if has_null else 1.0) if scale is None else scale
    return Sampling(
        sampler=stage.sampler,
        steps=stage.steps,
        spacing=stage.spacing,
        eta=stage.eta,
        cfg=guided if has_null else 1.0,
        cfg_interval=stage.cfg_interval,
    )


def _passes(sampling: Sampling, num_steps: int) -> int:
    """Return how many times the network looks at an image: twice where it is guided, and at Heun's second points."""
    grid = times.grid(num_steps, min(sampling.num_steps, num_steps), sampling.spacing).tolist()
    asked = grid[:-1] + (grid[1:-1] if sampling.sampler == "heun" else [])
    low, high = sampling.cfg_interval or (0.0, 1.0)
    guided = sampling.cfg not in (0.0, 1.0)
    return sum(2 if guided and low <= t <= high else 1 for t in asked)


def _seconds_to_draw(basis: Basis, autoencoder: Autoencoder, sampling: Sampling) -> float:
    """Measure what an image takes in few steps, and in one more, as the sampler draws it."""
    stage, policy = basis.stages.train_dit, basis.policy
    conditioning = conditioning_of({"class_names": basis.images.class_names}, stage.label_dropout)
    model = Model(
        network=denoisers.build(basis.network).to(policy.device).eval().requires_grad_(False),
        autoencoder=autoencoder.to(policy.device),
        schedule=forward_process(stage.diffusion),
        prediction=stage.diffusion.prediction,
        latent_shape=basis.latent_shape,
        conditioning=conditioning,
        learned_variance=stage.diffusion.learn_variance,
    )
    images = basis.stages.sample.num * len(basis.images.class_names)
    count = min(chunk_size(basis.latent_shape, policy), images)
    numbers = np.arange(count)
    cond = conditions.index(conditioning.request("all").cond, numbers % len(basis.images.class_names))
    everywhere = replace(sampling, cfg_interval=None)

    def draw(steps: int) -> float:
        how = replace(everywhere, steps=steps)
        return seconds_of(lambda: generate(model, cond, numbers, how, policy), policy.device, basis.how.seconds / 2)

    one, several = draw(1), draw(_TRIED_STEPS)
    num_steps = model.schedule.num_steps
    least, most = (_passes(replace(everywhere, steps=steps), num_steps) for steps in (1, _TRIED_STEPS))
    per_pass = max(several - one, 0.0) / (most - least)
    autoencoder.to("cpu")
    return (one + per_pass * (_passes(sampling, num_steps) - least)) / count
