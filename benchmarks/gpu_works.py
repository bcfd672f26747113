"""What `gpu` measures, each on what the stages themselves run: dummy data, the loop's own steps, `generate`."""

import gc
import time
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from ldm.core.autoencoders.codec import Autoencoder
from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers import registry as denoisers
from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.pipeline.generation import Sampling, chunk_size, generate
from ldm.core.pipeline.model import Model
from ldm.core.pipeline.settings import Diffusion
from ldm.core.system.compile import maybe_compile
from ldm.core.system.flops import seconds_of
from ldm.core.system.precision import Policy, for_inference
from ldm.core.training import loop
from ldm.core.training.step import Stepper
from ldm.core.training.task import Batch, Plan
from ldm.core.training.tasks.autoencoding import AutoencodingTask
from ldm.core.training.tasks.denoising import DenoisingTask, network_config
from ldm.stages.configs import TrainDiT, TrainVQVAE
from ldm.stages.tools import dummy
from ldm.stages.tools.stage_costs import denoiser_cost

from .gpu_sizes import Case, Sizes

CLASSES, CFG = 1000, 4.0
LABELS = {"labels": torch.zeros(1, dtype=torch.int64)}  # an example
_LISTED = 15  # kernels


def products(policy: Policy, side: int) -> dict[str, float]:
    """Measure operations a second of a square matrix product, by dtype."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), (policy.name, policy.dtype)):
        a, b = (torch.randn(side, side, device=policy.device).to(dtype) for _ in range(2))
        rates[name] = 2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, policy.device, 0.5)  # type: ignore[misc]
    return rates


def copies(policy: Policy, side: int) -> float:
    """Measure bytes read and written a second in a copy."""
    source = torch.zeros(4, side, side, device=policy.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), policy.device, 0.5)


def training(case: Case, policy: Policy, sizes: Sizes, peaks: dict[str, float]) -> dict[str, Any]:
    """Measure images a second of the training loop, its utilisation, and the memory it took against the estimate."""
    forget(policy)
    started = time.monotonic()
    task, plan = _task(case, policy)
    per_step, count = loop.rehearse(task, plan, policy, sizes.seconds)
    taken = torch.cuda.max_memory_allocated(policy.device) if policy.device.type == "cuda" else None
    config = task.network.config
    operations = denoiser_cost(config, LABELS, case.batch, policy, checkpointing=False)[0].training
    rate = operations * case.batch / per_step
    estimated = denoiser_cost(config, LABELS, case.batch, policy, case.checkpointing)[1].together
    return {
        "images_per_second": case.batch / per_step,
        "steps_timed": count,
        "seconds_in_all": time.monotonic() - started,
        "gflop_per_image": operations / 1e9,
        "tflops": rate / 1e12,
        **{f"mfu_of_{name}": rate / peak for name, peak in peaks.items()},
        "memory_gbytes": None if taken is None else taken / 1e9,
        "memory_estimated_gbytes": estimated / 1e9,
    }


def kernels(case: Case, policy: Policy, steps: int = 4) -> dict[str, Any]:
    """Profile some steps, and list what they spend the device's time on: seconds a step, the longest first."""
    forget(policy)
    on_gpu = policy.device.type == "cuda"
    task, plan = _task(case, policy)
    stepper = Stepper(task, plan, policy)

    def step(number: int) -> None:
        positions = np.arange(number * case.batch, (number + 1) * case.batch)
        stepper.step(task.load(Batch(positions % dummy.COUNT, positions, 0)), number, 0)

    for number in range(3):
        step(number)
    stepper.flush()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as watched:
        for number in range(3, 3 + steps):
            step(number)
        stepper.flush()
        if on_gpu:
            torch.cuda.synchronize(policy.device)
    spent: dict[str, float] = {}
    for event in watched.key_averages():
        own = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        is_kernel = event.device_type == torch.autograd.DeviceType.CUDA
        # An operation of the CPU, and a named range of kernels, have the time of their kernels besides.
        if own and is_kernel == on_gpu and not event.is_user_annotation:
            spent[event.key] = spent.get(event.key, 0.0) + own / 1e6 / steps
    longest = sorted(spent, key=lambda name: -spent[name])[:_LISTED]
    return {"seconds_per_step": sum(spent.values()), "longest": {name: spent[name] for name in longest}}


def _task(case: Case, policy: Policy) -> tuple[DenoisingTask, Plan]:
    """Make the task of `ldm train-dit` on latents held on the device."""
    config = TrainDiT.model_validate(
        {
            "model": {"preset": case.preset, "checkpointing": case.checkpointing},
            "machine": {"compile": case.compiled},
            "train": {"batch_size": case.batch},
        }
    )
    shape = (4, case.side, case.side)
    network = network_config(config, shape, LabelConditioning(tuple(map(str, range(CLASSES)))))
    latents = dummy.latents(shape, CLASSES, True, policy.device)
    task = DenoisingTask(config, network, latents, None, policy)
    return task, Plan(**config.train.model_dump(), seed=0)


def sampling(preset: str, policy: Policy, sizes: Sizes) -> dict[str, Any]:
    """Measure the drawing of one full batch of images with guidance, and the share that decoding has of it."""
    shape = (4, sizes.side, sizes.side)
    config = DiTConfig(latent_channels=4, latent_size=sizes.side, num_classes=CLASSES, **PRESETS[preset.lower()])
    found: dict[str, Any] = {"steps": sizes.steps, "cfg": CFG}
    for how in ("eager", "compiled")[: 2 if policy.device.type == "cuda" else 1]:
        forget(policy)
        network = for_inference(denoisers.build(config), policy)
        maybe_compile(network, how == "compiled", policy.device)
        model = Model(
            network=network,
            autoencoder=_autoencoder(sizes, policy),
            diffusion=Diffusion(),
            latent_shape=shape,
            conditioning=LabelConditioning(tuple(map(str, range(CLASSES)))),
        )
        numbers = np.arange(chunk_size(model.latent_shape, policy))

        def draw(model: Model = model, numbers: np.ndarray = numbers) -> None:
            generate(
                model, {"labels": torch.from_numpy(numbers)}, numbers, Sampling(cfg=CFG, steps=sizes.steps), policy
            )

        latents = torch.zeros(len(numbers), *shape, device=policy.device)

        def decode(model: Model = model, latents: torch.Tensor = latents) -> None:
            model.decode(latents, policy)

        seconds = seconds_of(draw, policy.device, sizes.seconds / 2)
        found |= {"batch": len(numbers), f"{how}_images_per_second": len(numbers) / seconds}
        found[f"{how}_share_of_decoding"] = seconds_of(decode, policy.device, sizes.seconds / 8) / seconds
    return found


def _autoencoder(sizes: Sizes, policy: Policy) -> Autoencoder:
    """Return an autoencoder of four channels, untrained."""
    config = TrainVQVAE.model_validate({"data": {"image_size": 16}, "model": {"preset": sizes.vqvae}})
    task = AutoencodingTask(config, dummy.images(config.data, 2, count=2), Policy(torch.device("cpu"), torch.float32))
    return task.autoencoder.to(policy.device).eval()


def autoencoding(policy: Policy, sizes: Sizes) -> dict[str, Any]:
    """Measure images a second of the autoencoder's training loop, and of encoding."""
    config = TrainVQVAE.model_validate(
        {
            "data": {"image_size": sizes.image_size},
            "model": {"preset": sizes.vqvae},
            "train": {"batch_size": sizes.images},
        }
    )
    forget(policy)
    task = AutoencodingTask(config, dummy.images(config.data, 2), policy)
    per_step, _ = loop.rehearse(task, Plan(**config.train.model_dump(), seed=0), policy, sizes.seconds)
    images = torch.zeros(sizes.images, 3, sizes.image_size, sizes.image_size, device=policy.device)

    @torch.no_grad()
    def encode() -> None:
        with policy.autocast():
            task.autoencoder.encode(images)

    task.autoencoder.eval()
    return {
        "preset": sizes.vqvae,
        "image_size": sizes.image_size,
        "batch": sizes.images,
        "training_images_per_second": sizes.images / per_step,
        "encoding_images_per_second": sizes.images / seconds_of(encode, policy.device, sizes.seconds / 4),
    }


def loading(policy: Policy, sizes: Sizes) -> dict[str, Any]:
    """Measure how many latents a second one thread gets ready: gathered, with noise, times and labels drawn."""
    task, _ = _task(Case("dit-xs", sizes.side, sizes.loaded, compiled=False), policy)
    positions = np.arange(sizes.loaded)
    batch = Batch(positions % dummy.COUNT, positions, 0)
    seconds = seconds_of(lambda: task.load(batch), policy.device, sizes.seconds / 8)
    return {"latents_per_second": sizes.loaded / seconds}


def forget(policy: Policy) -> None:
    """Let the memory of what was measured before go, and compiled code with it."""
    gc.collect()
    torch.compiler.reset()
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(policy.device)
