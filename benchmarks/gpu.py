"""What a GPU makes of the stages: training at the published sizes, sampling with guidance, the autoencoder, the loader.

    benchmarks/gpu.sh              # its tests and this, within ten minutes, on a machine with an NVIDIA GPU
    benchmarks/gpu.sh --smoke      # every line of it at tiny sizes on the CPU, to see that it runs

Steps are those of the training loop on dummy data (latents held on the device), with the loader running. Utilisation
(MFU) is counted operations (forward and back, nothing recomputed) a second, over the rate of a large matrix product
measured here and over that of the data sheet. Results go to `results/gpu-NAME.json`; nothing is asserted about time.
"""

import argparse
import json
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ldm.core.system.flops import GPUS
from ldm.core.system.precision import Policy, resolve

from . import gpu_works, machine
from .gpu_sizes import FULL, TINY, Sizes

RESULTS = Path(__file__).parent / "results"


def describe(policy: Policy, sizes: Sizes) -> dict[str, Any]:
    """Return what is measured on, with the rates that utilisation is a share of."""
    found = machine.describe()
    if policy.device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(policy.device)
    rates = gpu_works.products(policy, sizes.matrix)
    sheet = data_sheet(found["device"]) if policy.device.type == "cuda" else None
    return found | {
        "cuda": torch.version.cuda,
        "gpus": torch.cuda.device_count(),
        "precision": policy.name,
        "matmul_tflops": {name: round(rate / 1e12, 3) for name, rate in rates.items()},
        "copy_gbytes": round(gpu_works.copies(policy, sizes.matrix) / 1e9, 1),
        "data_sheet_tflops": None if sheet is None else round(GPUS[sheet][policy.name], 1),
    }


def data_sheet(name: str) -> str | None:
    """Return the machine, of those known, that a GPU calls itself."""
    words = re.findall(r"[a-z]+\d+[a-z]*|\d+gb|[a-z]+", name.lower().replace("rtx ", "rtx"))
    found = next((known for known in GPUS if known in words), None)
    return "a100-40gb" if found == "a100" and "40gb" in words else found


def measure(
    policy: Policy, sizes: Sizes, deadline: float, tell: Callable[[str], None], keep: Callable[[dict[str, Any]], None]
) -> None:
    """Measure everything that is begun before a deadline, by `time.monotonic`, and keep what there is after each work.

    What does not fit into memory, or fails, is reported as such, and the rest goes on.
    """
    document: dict[str, Any] = {"benchmark": "gpu", "machine": describe(policy, sizes)}
    about = document["machine"]
    peaks = {"measured": about["matmul_tflops"][policy.name] * 1e12}
    if about["data_sheet_tflops"]:
        peaks["data_sheet"] = about["data_sheet_tflops"] * 1e12
    tell(_line("machine", about))
    works: dict[str, Callable[[], dict[str, Any]]] = {}
    trainings = {
        f"training {case.name}": lambda case=case: gpu_works.training(case, policy, sizes, peaks)  # type: ignore[misc]
        for case in sizes.trainings
    }
    works |= {name: trainings.pop(name) for name in list(trainings) if name.endswith(", compiled")}
    for preset in sizes.sampled:
        works[f"sampling {preset}"] = lambda preset=preset: gpu_works.sampling(preset, policy, sizes)  # type: ignore[misc]
    works[f"kernels of training {sizes.profiled.name}"] = lambda: gpu_works.kernels(sizes.profiled, policy)
    works["autoencoder"] = lambda: gpu_works.autoencoding(policy, sizes)
    works["loader"] = lambda: gpu_works.loading(policy, sizes)
    works |= trainings  # What is there to compare with comes last, should time be up.
    facts = document["facts"] = {}
    for name, work in works.items():
        if time.monotonic() > deadline:
            facts[name] = {"left_out": "time was up"}
        else:
            try:
                facts[name] = work()
            except torch.cuda.OutOfMemoryError as error:
                facts[name] = {"out_of_memory": str(error).splitlines()[0]}
            except RuntimeError as error:
                facts[name] = {"failed": str(error).splitlines()[0]}
        tell(_line(name, facts[name]))
        keep(document)


def _line(name: str, facts: Mapping[str, Any]) -> str:
    def shown(key: str, value: Any) -> str:
        if isinstance(value, Mapping):
            return "".join(f"\n  {inner:.100}: {_written(number)}" for inner, number in value.items())
        return f"{key.replace('_', ' ')} {_written(value)}"

    return f"{name}: {', '.join(shown(key, value) for key, value in facts.items() if value is not None)}"


def _written(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def main() -> None:
    """Measure, print a line for each figure, and write the results."""
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu.sh", description="Measure the stages on a GPU.", allow_abbrev=False
    )
    parser.add_argument("--smoke", action="store_true", help="tiny sizes on the CPU, to see that it runs")
    parser.add_argument("--precision", default="auto", help="fp32, bf16, fp16 or auto")
    parser.add_argument("--minutes", type=float, default=5.5, help="nothing is begun after so many")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    given = parser.parse_args()
    deadline = time.monotonic() + 60 * given.minutes
    policy, sizes = resolve("cpu" if given.smoke else "cuda", given.precision), TINY if given.smoke else FULL
    given.out.mkdir(parents=True, exist_ok=True)
    device = "smoke" if given.smoke else torch.cuda.get_device_name(policy.device)
    path = given.out / f"gpu-{re.sub(r'[^a-z0-9]+', '-', device.lower()).strip('-')}.json"

    def keep(document: dict[str, Any]) -> None:
        path.write_text(json.dumps({**document, "sizes": asdict(sizes)}, indent=2) + "\n")

    measure(policy, sizes, deadline, lambda line: print(line, flush=True), keep)
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
