"""`ldm estimate`: what each stage of a recipe costs before it is run: operations, memory, room on the disk, time.

Operations and memory are counted on the networks that would be trained (`core.estimation`). Time is that of a few real
steps on made-up data, or operations over the rate of a machine that is known by its data sheet only.
"""

from dataclasses import asdict
from pathlib import Path

import torch

from ...core.estimation.kernels import LAUNCH
from ...core.progress import Outcome, Progress
from ...core.system import machine
from ..configs.estimate import Estimate
from .costs import StageCost, amount, duration, table
from .estimate_basis import Basis, Stages, basis
from .estimate_inference import encode, sample
from .estimate_training import autoencoder_of, train_classifier, train_dit, train_vqvae


def estimate(how: Estimate, stages: Stages, progress: Progress) -> Outcome:
    """Estimate the stages of a recipe but `eval`, whose time is that of reading its reference. Returns the table."""
    found = basis(how, stages)
    autoencoder = autoencoder_of(found)
    works = [lambda: train_dit(found, autoencoder), lambda: sample(found, autoencoder)]
    if autoencoder is not None:
        works[:0] = [lambda: train_vqvae(found, autoencoder), lambda: encode(found, autoencoder)]
        if not stages.train_classifier.noisy and len(found.images.class_names) > 1:
            works.append(lambda: train_classifier(found))
    costs: list[StageCost] = []
    progress.start("estimating", len(works), "stages")
    for work in works:
        costs.append(work())
        progress.update(len(costs))
    progress.finish()
    notes = [*found.notes, *_conditions(found)]
    for note in notes:
        progress.note(note)
    total, known = sum(each.seconds or 0 for each in costs), all(each.seconds is not None for each in costs)
    facts = {
        "stages": [asdict(each) for each in costs],
        "latent_shape": list(found.latent_shape),
        "classes": len(found.images.class_names),
        "precision": found.policy.name,
        "gpus": how.gpus,
        "measured": found.rate is None,
        "operations_per_second": found.rate,
        "notes": notes,
    }
    about = "at least" if any(each.limit == "launches" for each in costs) else "about"
    verdict = f"takes {about} {duration(total)}{'' if known else ' where that is known'} {_where(found)}"
    return Outcome(Path(how.recipe or "defaults"), summary=table(costs), verdict=verdict, facts=facts)


def _where(found: Basis) -> str:
    """Say on what the time is."""
    number = f"{found.how.gpus} x " if found.how.gpus > 1 else ""
    if found.rate is not None:
        kind = found.how.where if found.how.where != "this" else "a machine"
        return f"on {number}{kind} at {amount(found.rate)}FLOP/s"
    if found.policy.device.type == "cuda":
        return f"on {number}{torch.cuda.get_device_name(found.policy.device)}, as measured"
    return f"on {number}{machine.processor_name()} with {torch.get_num_threads()} threads, as measured"


def _conditions(found: Basis) -> list[str]:
    """Say what the numbers rest on."""
    said = [f"networks compute in {found.policy.name}; reading and decoding of images, and eval, are not in the times"]
    if found.rate is None:
        said.append(f"times are of {found.how.seconds:g} s of real steps of each stage on made-up data, in proportion")
    elif not found.launches:
        said.append("times are operations over the rate; small networks and batches reach less of it than large ones")
    else:
        said.append(
            f"times are operations over the rate, or {LAUNCH * 1e6:.0f} us for each kernel launched where that is"
            " longer, which is the least; from JPEG or PNG, images/s are at most those that the CPU decodes"
        )
    if found.how.gpus > 1:
        said.append("what several GPUs say to each other is not in the times")
    resident = machine.used_memory()
    if found.policy.device.type == "cpu" and resident is not None:
        said.append(f"memory is that of tensors; Python and what is loaded take about {resident / 1e6:,.0f} MB besides")
    return said
