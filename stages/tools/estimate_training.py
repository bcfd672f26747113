"""What the trainings of a recipe cost."""

from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.autoencoders import registry
from ...core.autoencoders.codec import Autoencoder
from ...core.denoisers import registry as denoisers
from ...core.estimation import cost
from ...core.estimation.cost import Memory, Operations
from ...core.estimation.kernels import Kernels, denoiser_kernels, task_kernels
from ...core.system.compile import compiling_pays
from ...core.system.precision import Policy
from ...core.training import loop
from ...core.training.settings import Train
from ...core.training.task import Batch, Plan, Task
from . import dummy
from .costs import StageCost
from .estimate_basis import Basis, counting_policy

_VALIDATION = {"train-vqvae": 512, "train-dit": 1024}  # held-out samples looked at each time, at most
_LATE = 2**60  # images seen, at which every part of every loss counts


def autoencoder_of(basis: Basis) -> Autoencoder | None:
    """Return the recipe's autoencoder, with weights of no meaning where it would be trained; None with --latent."""
    if basis.how.latent is not None:
        return None
    given = basis.stages.train_vqvae.autoencoder
    if given is not None:
        return registry.load(given)
    task: Any = _task(basis, "train-vqvae", counting_policy(basis.policy))
    built: Autoencoder = task.autoencoder.eval()
    return built


def train_vqvae(basis: Basis, autoencoder: Autoencoder) -> StageCost:
    """Count the training of the autoencoder, and the measuring of its latents."""
    stage, images = basis.stages.train_vqvae, basis.images
    side = stage.data.image_size
    encode = cost.count_forward(lambda: autoencoder.posterior(torch.zeros(1, 3, side, side)))
    measuring = encode * (images.train or 0)
    if stage.autoencoder is not None:
        weights = 4 * sum(parameter.numel() for parameter in autoencoder.parameters())
        seconds = None if basis.rate is None else measuring / basis.rate
        return StageCost("train-vqvae", images.train, parameters=weights // 4, in_all=measuring, seconds=seconds)
    operations, memory, kernels = _by_stepping(basis, "train-vqvae", stage.train)
    held_out = _validations(stage.train, _VALIDATION["train-vqvae"], images.val) * operations.forward
    return _trained(basis, "train-vqvae", stage.train, operations, memory, measuring + held_out, kernels)


def train_dit(basis: Basis, autoencoder: Autoencoder | None) -> StageCost:
    """Count the training of the denoiser, with its validations and previews, and with activations recomputed."""
    stage, classes = basis.stages.train_dit, len(basis.images.class_names)
    at_once = basis.share(stage.train.batch_size, stage.train.accumulate)
    operations = cost.denoiser_operations(basis.network)
    recomputing = cost.denoiser_memory(basis.network, at_once, basis.policy, checkpointing=True)
    memory = recomputing
    if stage.model.checkpointing:
        operations = Operations(operations.forward, operations.training + operations.forward)
    else:
        memory = cost.denoiser_memory(basis.network, at_once, basis.policy, checkpointing=False)
    preview = stage.preview
    times = stage.train.images // preview.every + 2 if preview.every else 0
    drawn = times * preview.per_class * min(preview.classes, classes)
    decode = 0
    if autoencoder is not None:
        decode = cost.count_forward(lambda: autoencoder.decode(torch.zeros(1, *basis.latent_shape)))
    previews = drawn * (preview.steps * (2 if stage.label_dropout else 1) * operations.forward + decode)
    held_out = _validations(stage.train, _VALIDATION["train-dit"], basis.images.val) * operations.forward
    kernels = denoiser_kernels(basis.network, basis.policy.dtype)
    if stage.model.checkpointing:
        kernels = replace(kernels, training=kernels.training + kernels.forward)
    counted = _trained(basis, "train-dit", stage.train, operations, memory, previews + held_out, kernels)
    held = {**asdict(_lying(basis, memory)), "recomputing": _lying(basis, recomputing).together}
    return replace(counted, memory=held)


def train_classifier(basis: Basis) -> StageCost:
    """Count the training of the small classifier of images."""
    stage = basis.stages.train_classifier
    operations, memory, kernels = _by_stepping(basis, "train-classifier", stage.train)
    held_out = _validations(stage.train, None, basis.images.val) * operations.forward
    return _trained(basis, "train-classifier", stage.train, operations, memory, held_out, kernels)


def _task(basis: Basis, stage: str, policy: Policy) -> Task:
    """Make a stage's task on made-up data."""
    stages, data, classes = basis.stages, basis.stages.train_vqvae.data, len(basis.images.class_names)
    if stage == "train-dit":
        latents = dummy.latents(basis.latent_shape, classes, data.flip, policy.device)
        return stages.tasks[stage](stages.train_dit, basis.network, latents, None, policy)
    if stage == "train-classifier":
        config = stages.train_classifier.model_copy(update={"data": data})
        return stages.tasks[stage](config, dummy.images(data, classes), policy)
    loss = stages.train_vqvae.loss
    if loss.lpips is not None and not loss.lpips.is_dir():
        basis.note(f"the perceptual loss is left out: its weights ({loss.lpips}) are not at hand")
        loss = loss.model_copy(update={"lpips": None})
    autoencoding = stages.train_vqvae.model_copy(update={"loss": loss})
    return stages.tasks[stage](autoencoding, dummy.images(data, classes), policy)


def _by_stepping(basis: Basis, stage: str, settings: Train) -> tuple[Operations, Memory, Kernels]:
    """Count a training whose networks look at their numbers, so that a step of a few images has to be taken."""
    policy = counting_policy(basis.policy)
    task = _task(basis, stage, policy)

    def loss(count: int) -> Tensor:
        data = task.load(Batch(np.arange(count), np.arange(count), _LATE))
        with policy.autocast():
            found = [task.loss(role, data)[0] for role in task.networks]
        task.after_step(False)
        return torch.stack([each for each in found if each.requires_grad]).sum()

    at_once = basis.share(settings.batch_size, settings.accumulate)
    operations, memory = cost.task_cost(loss, task.modules, task.averaged, [], at_once)
    return operations, memory, task_kernels(loss, task.modules)


def _lying(basis: Basis, memory: Memory) -> Memory:
    """Return the memory of one of the processes that the training lies over."""
    settings = basis.stages.train_dit.train
    if basis.how.gpus == 1 or not settings.shard:
        return memory
    network = denoisers.outline(basis.network)
    parts = [part for module in network.modules() if isinstance(module, nn.ModuleList) for part in module]
    return cost.sharded(memory, basis.how.gpus, parts, basis.policy.dtype.itemsize)


def _trained(
    basis: Basis,
    stage: str,
    settings: Train,
    operations: Operations,
    memory: Memory,
    extra: float,
    kernels: Kernels,
) -> StageCost:
    """Put together what a training costs. extra: operations beside the steps: validations, previews, measuring."""
    share, gpus, steps = basis.share(settings.batch_size), basis.how.gpus, operations.training * float(settings.images)
    limit, rate = None, basis.rate
    if rate is not None:
        work = (operations.training * share, kernels.in_step(settings.accumulate, _is_compiled(basis, stage, steps)))
        images_per_second, limit = share * gpus / basis.seconds_of(*work), basis.limit(*work)
    else:
        plan = Plan(**{**settings.model_dump(), "batch_size": share, "shard": False}, seed=0)
        task = _task(basis, stage, basis.policy)
        per_step, _ = loop.rehearse(task, plan, basis.policy, basis.how.seconds)
        rate = operations.training * share / per_step
        images_per_second = rate * gpus / operations.training
    return StageCost(
        stage,
        images=settings.images,
        batch=settings.batch_size,
        parameters=memory.weights // 4,
        operations=operations.training,
        in_all=steps + extra,
        memory=asdict(memory),
        rate=images_per_second,
        limit=limit,
        seconds=settings.images / images_per_second + extra / rate,
    )


def _is_compiled(basis: Basis, stage: str, operations: float) -> bool:
    """Whether a training would be compiled: where it was asked for, and long ones of a denoiser."""
    asked: bool | None = getattr(basis.stages, stage.replace("-", "_")).machine.compile
    return compiling_pays(operations, basis.policy.device) if asked is None and stage == "train-dit" else bool(asked)


def _validations(settings: Train, most: int | None, there: int | None) -> int:
    """Return how many held-out samples are looked at in a training."""
    each = min((number for number in (most, there) if number is not None), default=0)
    return each * (settings.images // settings.validate_every + 2 if settings.validate_every else 1)
