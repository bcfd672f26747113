"""Sampling on a GPU: an image is the same beside any others, and a sampler does not wait."""

import numpy as np
import torch
from torch import nn

from ldm.core.diffusion import samplers, times
from ldm.core.diffusion.schedules import schedule
from ldm.core.pipeline.generation import Sampling, generate
from ldm.core.pipeline.model import Guidance, guided
from ldm.core.system.precision import for_inference
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.stages.configs import TrainVQVAE
from ldm.stages.tools import dummy
from tests.support.on_a_gpu import BF16, DEVICE, FP32, NEEDS_GPU, SIDE, refusing_to_wait, task_of


def test_an_image_is_the_same_alone_and_in_a_batch() -> None:
    task = task_of(BF16)
    vqvae = AutoencodingTask(
        TrainVQVAE.model_validate({"data": {"image_size": 4 * SIDE}, "model": {"preset": "vqvae-s", "channels": 16}}),
        dummy.images(TrainVQVAE.model_validate({"data": {"image_size": 4 * SIDE}}).data, 10),
        FP32,
    )
    task.autoencoder = vqvae.autoencoder.eval()
    for_inference(task.network, BF16)
    sampling = Sampling(cfg=3.0, steps=6)
    together = generate(task.model(), {"labels": torch.arange(10)}, np.arange(10), sampling, BF16)
    alone = generate(task.model(), {"labels": torch.tensor([7])}, np.array([7]), sampling, BF16)
    assert np.array_equal(together[7], alone[0])


@NEEDS_GPU
def test_a_sampler_waits_for_nothing_between_its_steps() -> None:
    task = task_of(BF16)
    task.autoencoder = nn.Identity()  # type: ignore[assignment]  # nothing is decoded
    for_inference(task.network, BF16)
    steered = guided(task.model(), Guidance(cfg=3.0), BF16)
    x, cond = torch.randn(8, 4, SIDE, SIDE, device=DEVICE), {"labels": torch.arange(8, device=DEVICE)}
    path, grid = schedule("cosine"), times.grid(1000, 6)
    for name, sample in samplers.SAMPLERS.items():
        work = (steered.denoise, x, path, grid, cond)
        first = sample(*work, noise=lambda step: x)
        with refusing_to_wait():
            second = sample(*work, noise=lambda step: x)
        assert torch.equal(first, second), name
