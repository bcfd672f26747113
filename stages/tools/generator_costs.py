"""What distillation costs, and what a generator of tokens does, in training and in drawing; see `estimate`."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...core.autoregressive import registry
from ...core.autoregressive.var_config import NextScaleConfig
from ...core.denoisers import registry as denoisers
from ...core.diffusion import conditions
from ...core.diffusion.conditions import Cond
from ...core.diffusion.distillation import CFG
from ...core.errors import ConfigError
from ...core.pipeline.generation import chunk_size
from ...core.pipeline.model import Model
from ...core.pipeline.settings import Student, TokenDrawing
from ...core.pipeline.students import usual_range
from ...core.pipeline.token_drawing import TokenGenerator, token_sampling
from ...core.system import flops
from ...core.system.compile import maybe_compile
from ...core.system.flops import COMPILED, Memory, Passes
from ...core.system.precision import Policy, for_inference
from ...core.training.muon import cost_with
from ...core.training.tasks.distilling import DistillingTask
from ...core.training.tasks.next_scale import NextScaleTask, network_of
from ..configs import Distill, Sample, TrainVAR
from . import dummy
from .costs import Basis, StageCost
from .stage_costs import conditioning_for, denoiser_cost, denoiser_network, example, training_cost


def distill(found: Basis, stage: Distill) -> StageCost:
    """Estimate a chain of students: the first learns from the guided denoiser, each other from the one before it."""
    training, latents, policy = found.recipe.denoiser, found.latents, found.policy
    conditioning = conditioning_for(found, training)
    guidance = stage.guidance or usual_range(conditioning.has_null)
    student = Student(steps=stage.first_steps, guidance=guidance)
    plain, cond = denoiser_network(found, training), example(latents)
    if student.takes_scale:
        cond = {**cond, CFG: torch.ones(1)}
    network = plain.replace(scalars=(*plain.scalars, CFG) if student.takes_scale else plain.scalars)
    at_once = found.share(stage.train.batch_size, stage.train.accumulate)
    passes, memory = denoiser_cost(network, cond, at_once, policy, training.model.checkpointing)
    passes, memory = cost_with(stage.train.optimizer, denoisers.outline(network), passes, memory)
    memory = replace(memory, together=memory.together + memory.weights)  # the teacher's

    def rehearsed(steps: int, taught_by: Student | None) -> DistillingTask:
        teacher = Model(
            network=for_inference(denoisers.build(plain if taught_by is None else network), policy),
            autoencoder=found.autoencoder,  # type: ignore[arg-type]  # It draws nothing.
            diffusion=training.diffusion,
            latent_shape=latents.train.shape,
            conditioning=conditioning,
            student=taught_by,
        )
        own = student.model_copy(update={"steps": steps})
        return DistillingTask(stage, network, latents, teacher.autoencoder, policy, teacher, own)

    # Of each sample the teacher steps twice; guided, a step is two passes.
    guided = 2 if student.takes_scale or guidance[0] != 1.0 else 1
    first = training_cost(found, stage, _with(passes, 2 * guided), memory, lambda: rehearsed(stage.first_steps, None))
    others = int(math.log2(stage.first_steps // stage.steps))
    if not others:
        return first
    later = training_cost(found, stage, _with(passes, 2), memory, lambda: rehearsed(stage.first_steps // 2, student))
    images, seconds = stage.train.images * (1 + others), (first.seconds or 0.0) + others * (later.seconds or 0.0)
    in_all = (first.in_all or 0.0) + others * (later.in_all or 0.0)
    return replace(
        first,
        images=images,
        operations=round(in_all / images),
        in_all=in_all,
        disk=(first.disk or 0) * (1 + others),
        rate=images / seconds,
        seconds=seconds,
    )


def _with(passes: Passes, forwards: int) -> Passes:
    """Return the cost of a step with so many passes of a teacher of the same size."""
    return replace(
        passes,
        training=passes.training + forwards * passes.forward,
        training_kernels=passes.training_kernels + forwards * passes.forward_kernels,
    )


def train_var(found: Basis, stage: TrainVAR) -> StageCost:
    """Estimate the training of a next-scale transformer."""
    network, autoencoder = _tokens_network(found, stage), found.autoencoder
    assert autoencoder is not None, "tokens have one"
    latents = dummy.with_tokens(found.latents, network.num_tokens, network.codebook_size)
    at_once = found.share(stage.train.batch_size, stage.train.accumulate)
    passes, memory = _step_cost(network, example(latents), at_once, found.policy)
    passes, memory = cost_with(stage.train.optimizer, _outline(network), passes, memory)

    def task() -> NextScaleTask:
        return NextScaleTask(stage, network, latents, autoencoder.to(found.policy.device), found.policy)

    return training_cost(found, stage, passes, memory, task)


def sample_tokens(found: Basis, stage: Sample) -> StageCost:
    """Estimate the drawing of the recipe's samples: all scales together are one pass over all tokens, or two guided."""
    training, policy, autoencoder = found.generator, found.policy, found.autoencoder
    assert autoencoder is not None, "tokens have one"
    conditioning = conditioning_for(found, training)
    images, cond = found.classes_drawn(conditioning, stage) * stage.num, example(found.latents)
    scale = stage.cfg if stage.cfg_paper is None else 1 + stage.cfg_paper
    how = {name: getattr(stage, name) for name in TokenDrawing.model_fields}
    sampling = token_sampling(conditioning.has_null, scale, **how)
    network = _tokens_network(found, training)
    passes, memory = _step_cost(network, cond, 1, policy)
    looks = 1 if sampling.cfg == 1.0 else 2
    shape = found.latents.train.shape
    decode = flops.forward_cost(lambda: autoencoder.decode(torch.zeros(1, *shape)))
    each = looks * passes.forward + decode[0]
    size, limit = chunk_size(shape, policy), None
    if found.rate is None:
        built = for_inference(registry.build(network), policy)
        maybe_compile(built, bool(stage.machine.compile), policy.device)
        generator = TokenGenerator(built, autoencoder.to(policy.device), conditioning, sampling, policy)
        conds = conditions.each(cond, lambda field: field.expand(size, *field.shape[1:]))
        seconds = flops.seconds_of(lambda: generator.draw(conds, np.arange(size)), policy.device, found.how.seconds)
    else:
        kernels = len(network.scales) * passes.forward_kernels + decode[1]
        slower = COMPILED if stage.machine.compile else 1.0
        seconds, limit = found.seconds(each * size, kernels * slower, memory.weights // 4)
    rate = found.how.gpus * min(size, images) / seconds
    return StageCost.of_drawing(stage.command, images, each, rate, limit)


def _tokens_network(found: Basis, stage: Any) -> NextScaleConfig:
    if found.autoencoder is None:
        raise ConfigError("`latent` says nothing of tokens", "leave it out, and name the autoencoder by a recipe")
    return network_of(stage, found.autoencoder, conditioning_for(found, stage))


def _outline(network: NextScaleConfig, device: str = "meta") -> nn.Module:
    """Return the network without drawn weights."""
    with torch.device("meta"):
        built: nn.Module = registry.build(network)
    # In the place of its weights, which are not drawn: fake tensors.
    for module in built.modules() if device != "meta" else ():
        for name, parameter in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(parameter.shape, device=device)))
    return built


def _step_cost(network: NextScaleConfig, cond: Cond, batch: int, policy: Policy) -> tuple[Passes, Memory]:
    """Count a training step without computing it."""

    def inputs(count: int, device: str) -> tuple[Tensor, Cond, Tensor]:
        later = network.num_tokens - network.tokens_of_scale[0]
        conds = conditions.each(
            cond, lambda field: torch.zeros(count, *field.shape[1:], dtype=field.dtype, device=device)
        )
        keep = torch.zeros(count, network.depth, 2, device=device)
        return torch.zeros(count, later, network.code_channels, device=device), conds, keep

    return flops.step_cost(lambda device: _outline(network, device), inputs, batch, policy)
