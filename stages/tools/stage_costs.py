"""What the training of each network, the encoding of images and the drawing of samples cost; see `estimate`.

FLOPs and memory are counted on the networks that would be trained. Time is that of a few real steps on dummy data, or
FLOPs over the rate of a machine that is known by its data sheet only.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.autoencoders.codec import TrainableCodec
from ...core.conditioning.attributes import ATTRIBUTES
from ...core.conditioning.conditioning import Conditioning, NoConditioning
from ...core.conditioning.registry import conditioning_of
from ...core.denoisers import registry as denoisers
from ...core.denoisers.config import DenoiserConfig
from ...core.diffusion import conditions
from ...core.diffusion.conditions import Cond
from ...core.latents.dataset import LatentSets
from ...core.pipeline.generation import chunk_size, evaluations, sampling_of
from ...core.system import flops
from ...core.system.compile import compiling_pays
from ...core.system.flops import COMPILED, Memory, Passes
from ...core.system.precision import Policy
from ...core.training import loop
from ...core.training.muon import cost_with
from ...core.training.settings import DenoiserTrain
from ...core.training.task import Batch, Plan, Task
from ...core.training.tasks.autoencoding import AutoencodingTask
from ...core.training.tasks.classifying import ClassifyingTask
from ...core.training.tasks.denoising import DenoisingTask, network_config
from ...core.training.tasks.phases import in_phases
from ..command import named
from ..configs import Encode, Sample, TrainAutoencoder, TrainClassifier, TrainDenoiser
from ..table import STAGES
from . import dummy
from .costs import Basis, StageCost

_LATE = 2**60  # images seen, after which every part of every loss is active


def train_autoencoder(found: Basis, stage: TrainAutoencoder) -> StageCost | list[StageCost] | None:
    """Estimate the training of the autoencoder, phase by phase; a finished one takes none, and pixels take none."""
    autoencoder = found.autoencoder
    if autoencoder is None:
        return None
    if stage.autoencoder is None and isinstance(autoencoder.codec, TrainableCodec):
        costs = [_by_stepping(found, phase, _autoencoding) for phase in in_phases(stage)]
        if len(costs) > 1:
            costs = [replace(cost, stage=f"{cost.stage} {number}") for number, cost in enumerate(costs, 1)]
        return costs
    return StageCost(stage.command, parameters=sum(each.numel() for each in autoencoder.parameters()), seconds=0.0)


def train_denoiser(found: Basis, stage: TrainDenoiser) -> StageCost:
    """Estimate the training of the denoiser, with activations kept as in the recipe, and recomputed."""
    gpus, policy, latents = found.how.gpus, found.policy, found.latents
    at_once = found.share(stage.train.batch_size, stage.train.accumulate)
    network, cond = denoiser_network(found, stage), example(latents)
    trained = denoisers.outline(network)
    (passes, memory), (_, recomputing) = (
        cost_with(stage.train.optimizer, trained, *denoiser_cost(network, cond, at_once, policy, checkpointing))
        for checkpointing in (stage.model.checkpointing, True)
    )
    cost = training_cost(found, stage, passes, memory, lambda: DenoisingTask(stage, network, latents, None, policy))
    if gpus > 1 and stage.train.shard:
        parts = [part for module in trained.modules() if isinstance(module, nn.ModuleList) for part in module]
        memory, recomputing = (
            flops.sharded(each, gpus, parts, policy.dtype.itemsize) for each in (memory, recomputing)
        )
    return replace(cost, memory={**asdict(memory), "recomputing": recomputing.together})


def train_classifier(found: Basis, stage: TrainClassifier) -> StageCost | None:
    """Estimate the training of the classifier of images; there is none without classes to tell apart."""
    if found.autoencoder is None or stage.noisy or len(found.images.class_names) < 2:
        return None
    return _by_stepping(found, stage, _classifying)


def encode(found: Basis, stage: Encode) -> StageCost | None:
    """Estimate the encoding of all images, mirrored ones and crops too, and the size of the latents on the disk."""
    autoencoder, data = found.autoencoder, found.recipe.autoencoder.data
    if autoencoder is None:
        return None
    views, size, batch = (2 if data.flip else 1) * (1 + stage.crops), data.size, stage.batch_size
    channels = autoencoder.in_channels
    each, kernels = flops.forward_cost(lambda: autoencoder.posterior(torch.zeros(1, channels, *size)))
    if found.rate is None:
        images = torch.zeros(batch, channels, *size, device=found.policy.device)
        seconds, limit = views * _measured(found, autoencoder, lambda codec: codec.posterior(images)), None
    else:
        seconds, limit = found.seconds(
            views * each * batch, views * kernels, sum(each.numel() for each in autoencoder.parameters())
        )
    rate = found.how.gpus * batch / seconds if seconds else None  # Pixels need no operations.
    is_random = autoencoder.posterior(torch.zeros(1, channels, *size)).std is not None
    shape = autoencoder.latent_shape(size)
    others = [prod(shape[1:])] if data.masks else []
    others += [12 * stage.crops] if stage.crops else []
    others += [4 * len(found.images.attributes.fields)] if found.images.attributes is not None else []
    size = bytes_of_a_sample(shape, views * (2 if is_random else 1), others)
    total = None if found.images.train is None or found.images.val is None else found.images.train + found.images.val
    return StageCost(
        stage.command,
        images=total,
        batch=batch,
        operations=views * each,
        in_all=None if total is None else float(views * each) * total,
        disk=None if total is None else size * total,
        rate=rate,
        limit=limit,
        seconds=None if total is None else total / rate if rate else 0.0,
    )


def sample(found: Basis, stage: Sample) -> StageCost:
    """Estimate the drawing of the recipe's samples, with its guidance."""
    other = STAGES[found.generator.command].cost_of_drawing
    if other:
        cost: StageCost = named(other)(found, stage)
        return cost
    training, policy, latents, autoencoder = found.recipe.denoiser, found.policy, found.latents, found.autoencoder
    conditioning = conditioning_for(found, training)
    images, shape = found.classes_drawn(conditioning, stage) * stage.num, latents.train.shape
    network, cond = denoiser_network(found, training), example(latents)
    looks, calls = evaluations(sampling_of(stage, conditioning.has_null), training.diffusion)
    chunk = chunk_size(shape, policy)  # filled up for fewer images
    passes, memory = denoiser_cost(network, cond, 1, policy, checkpointing=False)
    decode = (0, 0) if autoencoder is None else flops.forward_cost(lambda: autoencoder.decode(torch.zeros(1, *shape)))
    each = looks * passes.forward + decode[0]
    seconds: float | None = None
    limit = None
    if found.rate is not None:
        kernels = (calls * passes.forward_kernels + decode[1]) * (COMPILED if stage.machine.compile else 1)
        seconds, limit = found.seconds(each * chunk, kernels, memory.weights // 4)
    elif autoencoder is not None:
        inputs = _inputs(shape, cond, chunk, policy.device)
        seconds = looks * _measured(found, denoisers.build(network), lambda built: built(*inputs))
        seconds += _measured(found, autoencoder, lambda codec: codec.decode(inputs[0]))
    rate = None if seconds is None else found.how.gpus * min(chunk, images) / seconds
    return StageCost.of_drawing(stage.command, images, each, rate, limit)


def bytes_of_a_sample(shape: tuple[int, ...], fields: int, others: Sequence[int] = ()) -> int:
    """Return the bytes of a sample in a shard: float16 arrays, label and source, each in blocks of 512 with a header.

    Sources with names up to 400 bytes take one block. others: bytes of further arrays, each without its header.
    """
    arrays = [*fields * [2 * prod(shape)], *others]  # .npy has 128 bytes of its own before each
    return sum(512 * (1 + -(-(128 + each) // 512)) for each in arrays) + 2 * (512 + 512)


def training_cost(found: Basis, stage: Any, passes: Passes, memory: Memory, make: Callable[[], Task]) -> StageCost:
    """Return what a training costs; on this machine, by rehearsing it."""
    settings, gpus = stage.train, found.how.gpus
    share, in_all = found.share(settings.batch_size), passes.training * float(settings.images)
    if found.rate is None:
        plan = Plan(**{**settings.model_dump(), "batch_size": share, "shard": False}, seed=0)
        (seconds, _), limit = loop.rehearse(make(), plan, found.policy, found.how.seconds), None
    else:
        is_compiled = stage.machine.compile
        if is_compiled is None:
            is_compiled = stage is found.generator and compiling_pays(in_all, found.policy.device)
        kernels = settings.accumulate * passes.training_kernels * (COMPILED if is_compiled else 1)
        operations, launched = passes.training * share + passes.optimizer, kernels + passes.optimizer_kernels
        seconds, limit = found.seconds(operations, launched, memory.weights // 4)
    rate = share * gpus / seconds
    return StageCost(
        stage.command,
        images=settings.images,
        batch=settings.batch_size,
        parameters=memory.weights // 4,
        operations=passes.training,
        in_all=in_all,
        memory=asdict(memory),
        disk=_bytes_kept(stage, memory),
        rate=rate,
        limit=limit,
        seconds=settings.images / rate,
    )


def _bytes_kept(stage: Any, memory: Memory) -> int:
    """Return the most bytes of weights and moments that a training has on the disk: while it writes a checkpoint."""
    settings, evaluated = stage.train, getattr(stage, "metrics", None)
    every = max(settings.checkpoint_every, settings.batch_size) if settings.checkpoint_every else settings.images
    written = -(-settings.images // every)
    checkpoints = min(written, settings.keep + 1) * (memory.weights + memory.moments + memory.average)
    # final/, best/ and early/ have weights alone, and so do the EMAs of removed checkpoints.
    states = 1 + bool(evaluated and evaluated.every)
    if isinstance(settings, DenoiserTrain):
        states += 0 < settings.early <= settings.images
        states += max(0, written - settings.keep) if settings.keep_ema else 0
    return checkpoints + states * memory.weights


def _by_stepping(found: Basis, stage: Any, make: Callable[[Basis, Any, Policy], Task]) -> StageCost:
    """Estimate a training whose networks read values, so that steps of few images have to be run."""
    policy = flops.on_cpu(found.policy)
    task = make(found, stage, policy)

    def loss(count: int) -> Tensor:
        data = task.load(Batch(np.arange(count), np.arange(count), _LATE))
        with policy.autocast():
            losses = [task.loss(role, data)[0] for role in task.networks]
        task.after_step(False)
        return torch.stack([each for each in losses if each.requires_grad]).sum()

    at_once = found.share(stage.train.batch_size, stage.train.accumulate)
    passes, memory = flops.task_cost(loss, task.modules, task.averaged, at_once)
    passes, memory = cost_with(stage.train.optimizer, next(iter(task.networks.values())), passes, memory)
    return training_cost(found, stage, passes, memory, lambda: make(found, stage, found.policy))


def denoiser_cost(
    network: DenoiserConfig, cond: Cond, batch: int, policy: Policy, checkpointing: bool
) -> tuple[Passes, Memory]:
    """Count a step of a denoiser without computing it. network: its config. cond: an example of its condition."""
    shape = network.latent_shape

    def outline(device: str) -> nn.Module:
        return denoisers.outline(network, device)

    return flops.step_cost(outline, lambda *of: _inputs(shape, cond, *of), batch, policy, checkpointing)


def _inputs(shape: tuple[int, ...], cond: Cond, batch: int, device: str | torch.device) -> tuple[Tensor, Tensor, Cond]:
    """Return the arguments of a denoiser, all zeros."""
    conds = conditions.each(cond, lambda field: torch.zeros(batch, *field.shape[1:], dtype=field.dtype, device=device))
    return torch.zeros(batch, *shape, device=device), torch.zeros(batch, device=device), conds


def example(latents: LatentSets) -> Cond:
    """Return the condition of one latent."""
    return latents.train.cond(np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64))


def _measured(found: Basis, network: nn.Module, run: Callable[[Any], Any]) -> float:
    """Measure the seconds of a pass without a backward one."""
    device = found.policy.device
    network.to(device).eval()

    @torch.no_grad()
    def work() -> None:
        with found.policy.autocast():
            run(network)

    seconds = flops.seconds_of(work, device, found.how.seconds / 2)
    network.to("cpu")
    return seconds


def _autoencoding(found: Basis, stage: TrainAutoencoder, policy: Policy) -> AutoencodingTask:
    if stage.loss.lpips is not None and not stage.loss.lpips.is_dir():
        found.note(f"the perceptual loss is left out: its weights ({stage.loss.lpips}) are not available")
        stage = stage.model_copy(update={"loss": stage.loss.model_copy(update={"lpips": None})})
    return AutoencodingTask(stage, dummy.images(stage.data, len(found.images.class_names)), policy)


def _classifying(found: Basis, stage: TrainClassifier, policy: Policy) -> ClassifyingTask:
    data = found.recipe.autoencoder.data
    stage = stage.model_copy(update={"data": data})
    return ClassifyingTask(stage, dummy.images(data, len(found.images.class_names)), policy)


def denoiser_network(found: Basis, stage: TrainDenoiser) -> DenoiserConfig:
    """Return the network that would be trained, but for the condition of crops, which costs next to nothing."""
    stage = stage.model_copy(update={"crop_share": None})
    return network_config(stage, found.latents.train.shape, conditioning_for(found, stage))


def conditioning_for(found: Basis, stage: Any) -> Conditioning:
    """Return what a generator would be conditioned on."""
    if stage.conditioning == "none":
        return NoConditioning()
    if found.images.captioned and stage.conditioning in ("data", "text"):
        return found.texts(has_null=stage.label_dropout > 0)
    if found.images.attributes is not None and stage.conditioning in ("data", ATTRIBUTES):
        return replace(found.images.attributes, has_null=stage.label_dropout > 0)
    return conditioning_of({"class_names": found.images.class_names}, stage.label_dropout)
