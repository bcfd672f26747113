"""What a GPU makes of the stages: training at the published sizes, sampling with guidance, the autoencoder, the loader.

    python -m benchmarks.gpu                           # within ten minutes, on a machine with an NVIDIA GPU
    python -m benchmarks.gpu --device cpu --smoke      # every line of it at tiny sizes, to see that it runs

Steps are those of the training loop on made-up data (latents held on the device), with the loader running. Utilisation
(MFU) is counted operations (forward and back, nothing recomputed) a second, over the rate of a large matrix product
measured here and over that of the data sheet. Results go to `results/gpu-NAME.json`; nothing is asserted about time.
"""

import argparse
import gc
import json
import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.core.conditioning.labels import LabelConditioning
from ldm.core.denoisers import registry as denoisers
from ldm.core.denoisers.dit import DiTConfig
from ldm.core.diffusion.schedules import schedule
from ldm.core.estimation import cost
from ldm.core.estimation.machines import MACHINES
from ldm.core.estimation.timing import seconds_of
from ldm.core.generation import Sampling, chunk_size, generate
from ldm.core.guided import Model
from ldm.core.precision import Policy, maybe_compile, resolve, settle
from ldm.core.training import loop
from ldm.core.training.task import Batch, Plan
from ldm.stages import made_up
from ldm.stages.configs import TrainDiT, TrainVQVAE
from ldm.stages.train_dit import DenoisingTask, network_config
from ldm.stages.train_vqvae import AutoencodingTask

from . import machine

RESULTS = Path(__file__).parent / "results"
CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """A training to be measured: preset, side of the latents (4 channels), batch, compiled, activations recomputed."""

    preset: str
    side: int
    batch: int
    compiled: bool
    checkpointing: bool = False

    @property
    def name(self) -> str:
        how = ("compiled" if self.compiled else "eager") + (", checkpointing" if self.checkpointing else "")
        return f"{self.preset}, {self.side} x {self.side} x 4, batch {self.batch}, {how}"


@dataclass(frozen=True)
class Scale:
    """How large, and how long, everything is measured."""

    trainings: tuple[Case, ...]
    sampled: tuple[str, ...]
    side: int
    steps: int
    vqvae: str
    image_size: int
    images: int
    loaded: int
    matrix: int
    seconds: float
    memory_case: Case


FULL = Scale(
    trainings=(
        Case("dit-s/2", 32, 256, compiled=True),
        Case("dit-s/2", 32, 256, compiled=False),
        Case("dit-b/2", 32, 256, compiled=True),
        Case("dit-xl/2", 32, 64, compiled=True),
        Case("dit-xl/2", 32, 64, compiled=False),
        Case("dit-xl/2", 32, 256, compiled=True, checkpointing=True),
    ),
    sampled=("dit-s/2", "dit-xl/2"),
    side=32,
    steps=50,
    vqvae="vqvae-m",
    image_size=256,
    images=16,
    loaded=512,
    matrix=8192,
    seconds=12.0,
    memory_case=Case("dit-b/2", 32, 128, compiled=False),
)
TINY = Scale(
    trainings=(
        Case("dit-xs", 8, 4, compiled=False),
        Case("dit-xs", 8, 4, compiled=False, checkpointing=True),
    ),
    sampled=("dit-xs",),
    side=8,
    steps=2,
    vqvae="vqvae-xs",
    image_size=16,
    images=4,
    loaded=8,
    matrix=64,
    seconds=0.02,
    memory_case=Case("dit-xs", 8, 4, compiled=False),
)


def describe(policy: Policy, scale: Scale) -> dict[str, Any]:
    """Return what is measured on, with the rates that utilisation is a share of."""
    found = machine.describe()
    found["device"] = torch.cuda.get_device_name(policy.device) if policy.device.type == "cuda" else "cpu"
    found["precision"] = policy.name
    found["matmul_tflops"] = {name: round(rate / 1e12, 3) for name, rate in _products(policy, scale.matrix).items()}
    found["copy_gbytes"] = round(_copy(policy, scale.matrix) / 1e9, 1)
    sheet = data_sheet(found["device"])
    found["data_sheet_tflops"] = None if sheet is None else round(MACHINES[sheet].rates[policy.name] / 1e12, 1)
    return found


def data_sheet(name: str) -> str | None:
    """Return the machine, of those known, that a GPU calls itself."""
    words = re.sub(r"[^a-z0-9]", "", name.lower())
    known = sorted((each for each in MACHINES if each.split("-")[0] in words), key=len, reverse=True)
    if "a100" in known and "40gb" in words:
        return "a100-40gb"
    return next((each for each in known if each != "a100-40gb"), None)


def _products(policy: Policy, side: int) -> dict[str, float]:
    """Measure operations a second of a square matrix product, by number format."""
    rates = {}
    for name, dtype in (("fp32", torch.float32), (policy.name, policy.dtype)):
        a, b = (torch.randn(side, side, device=policy.device).to(dtype) for _ in range(2))
        rates[name] = 2 * side**3 / seconds_of(lambda a=a, b=b: a @ b, policy.device, 0.5)  # type: ignore[misc]
    return rates


def _copy(policy: Policy, side: int) -> float:
    """Measure bytes read and written a second in a copy."""
    source = torch.zeros(4, side, side, device=policy.device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source), policy.device, 0.5)


def training(case: Case, policy: Policy, scale: Scale, peaks: dict[str, float]) -> dict[str, Any]:
    """Measure images a second of the training loop, its utilisation, and the memory it took against the estimate."""
    config = TrainDiT.model_validate(
        {
            "model": {"preset": case.preset, "checkpointing": case.checkpointing},
            "machine": {"compile": case.compiled},
            "train": {"batch_size": case.batch},
        }
    )
    network = network_config(config, (4, case.side, case.side), CLASSES)
    latents = made_up.latents((4, case.side, case.side), CLASSES, True, policy.device)
    _forget(policy)
    started = time.monotonic()
    task = DenoisingTask(config, network, latents, None, policy)
    plan = Plan(**config.train.model_dump(), seed=0)
    per_step, count = loop.rehearse(task, plan, policy, scale.seconds)
    taken = torch.cuda.max_memory_allocated(policy.device) if policy.device.type == "cuda" else None
    operations = cost.denoiser_operations(network).training
    rate = operations * case.batch / per_step
    estimated = cost.denoiser_memory(network, case.batch, policy, case.checkpointing).together
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


def sampling(preset: str, policy: Policy, scale: Scale) -> dict[str, Any]:
    """Measure the drawing of one full batch of images with guidance, and the decoding alone."""
    shape = (4, scale.side, scale.side)
    config = DiTConfig(latent_channels=4, latent_size=scale.side, num_classes=CLASSES, **denoisers.preset(preset))
    found: dict[str, Any] = {"steps": scale.steps, "cfg": 4.0}
    for how, compiled in (("eager", False), ("compiled", True)):
        if compiled and policy.device.type != "cuda":
            continue
        _forget(policy)
        network = settle(denoisers.build(config), policy)
        maybe_compile(network, compiled, policy.device)
        model = Model(
            network=network,
            autoencoder=_autoencoder(scale, policy),
            schedule=schedule("cosine"),
            prediction="v",
            latent_shape=shape,
            labels=LabelConditioning(CLASSES),
        )
        count = chunk_size(model, policy)
        numbers = np.arange(count)

        def draw(model: Model = model, numbers: np.ndarray = numbers) -> None:
            generate(model, numbers, numbers, Sampling(cfg=4.0, steps=scale.steps), policy)

        seconds = seconds_of(draw, policy.device, scale.seconds / 2)
        found |= {"batch": count, f"{how}_images_per_second": count / seconds}
        latents = torch.zeros(count, *shape, device=policy.device)
        decode = seconds_of(lambda model=model, z=latents: model.decode(z, policy), policy.device, scale.seconds / 8)  # type: ignore[misc]
        found["share_of_decoding"] = decode / seconds
    return found


def _autoencoder(scale: Scale, policy: Policy) -> Any:
    """Return an autoencoder of four channels, untrained."""
    config = TrainVQVAE.model_validate({"data": {"image_size": 16}, "model": {"preset": scale.vqvae}})
    images = made_up.images(config.data, 2, count=2)
    return (
        AutoencodingTask(config, images, Policy(torch.device("cpu"), torch.float32))
        .autoencoder.to(policy.device)
        .eval()
    )


def autoencoding(policy: Policy, scale: Scale) -> dict[str, Any]:
    """Measure images a second of the autoencoder's training loop, and of encoding."""
    config = TrainVQVAE.model_validate(
        {
            "data": {"image_size": scale.image_size},
            "model": {"preset": scale.vqvae},
            "train": {"batch_size": scale.images},
        }
    )
    _forget(policy)
    task = AutoencodingTask(config, made_up.images(config.data, 2), policy)
    plan = Plan(**config.train.model_dump(), seed=0)
    per_step, _ = loop.rehearse(task, plan, policy, scale.seconds)
    images = torch.zeros(scale.images, 3, scale.image_size, scale.image_size, device=policy.device)

    @torch.no_grad()
    def encode() -> None:
        with policy.autocast():
            task.autoencoder.encode(images)

    encoding = seconds_of(encode, policy.device, scale.seconds / 4)
    return {
        "preset": scale.vqvae,
        "image_size": scale.image_size,
        "batch": scale.images,
        "training_images_per_second": scale.images / per_step,
        "encoding_images_per_second": scale.images / encoding,
    }


def loading(policy: Policy, scale: Scale) -> dict[str, Any]:
    """Measure how many latents a second one thread gets ready: gathered, with noise, times and labels drawn."""
    config = TrainDiT.model_validate({"model": {"preset": "dit-xs"}, "machine": {"compile": False}})
    shape = (4, scale.side, scale.side)
    latents = made_up.latents(shape, CLASSES, True, policy.device)
    task = DenoisingTask(config, network_config(config, shape, CLASSES), latents, None, policy)
    positions = np.arange(scale.loaded)
    batch = Batch(positions % made_up.COUNT, positions, 0)
    return {"latents_per_second": scale.loaded / seconds_of(lambda: task.load(batch), policy.device, scale.seconds / 8)}


def measure(device: str, precision: str, scale: Scale, tell: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything. A training that does not fit is told as such, and the rest goes on."""
    policy = resolve(device, precision)
    document: dict[str, Any] = {"benchmark": "gpu", "machine": describe(policy, scale)}
    peaks = {"measured": document["machine"]["matmul_tflops"][policy.name] * 1e12}
    if document["machine"]["data_sheet_tflops"]:
        peaks["data_sheet"] = document["machine"]["data_sheet_tflops"] * 1e12
    tell(_line("machine", {name: value for name, value in document["machine"].items() if not isinstance(value, dict)}))
    works: dict[str, Callable[[], dict[str, Any]]] = {
        **{f"training {case.name}": lambda case=case: training(case, policy, scale, peaks) for case in scale.trainings},  # type: ignore[misc]
        **{f"sampling {preset}": lambda preset=preset: sampling(preset, policy, scale) for preset in scale.sampled},  # type: ignore[misc]
        "autoencoder": lambda: autoencoding(policy, scale),
        "loader": lambda: loading(policy, scale),
    }
    document["facts"] = {}
    for name, work in works.items():
        try:
            document["facts"][name] = work()
        except torch.cuda.OutOfMemoryError as error:
            document["facts"][name] = {"out_of_memory": str(error).splitlines()[0]}
        tell(_line(name, document["facts"][name]))
    return document


def _forget(policy: Policy) -> None:
    """Let the memory of what was measured before go, and compiled code with it."""
    gc.collect()
    torch.compiler.reset()
    if policy.device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(policy.device)


def _line(name: str, facts: dict[str, Any]) -> str:
    shown = (
        f"{key.replace('_', ' ')} {value:.4g}" if isinstance(value, float) else f"{key.replace('_', ' ')} {value}"
        for key, value in facts.items()
        if value is not None
    )
    return f"{name}: {', '.join(shown)}"


def main() -> None:
    """Measure, print a line for each figure, and write the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    scale = TINY if given.smoke else FULL
    document = measure(given.device, given.precision, scale, lambda line: print(line, flush=True))
    document["scale"] = asdict(replace(scale))
    given.out.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^a-z0-9]+", "-", document["machine"]["device"].lower()).strip("-")
    path = given.out / f"gpu-{name}{'-smoke' if given.smoke else ''}.json"
    path.write_text(json.dumps(document, indent=2) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
