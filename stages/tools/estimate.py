"""`ldm estimate`: what each stage of a recipe costs before it is run: FLOPs, memory, room on the disk, time."""

import shutil
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch

from ...core.progress import Outcome, Progress, duration
from ...core.system import flops, machine
from ..command import named
from ..configs.estimate import Estimate
from ..table import STAGES
from .costs import Basis, StageCost, basis, table
from .words import amount

_BUSY = 0.5  # of the cores, that other work takes


def estimate(how: Estimate, recipe: SimpleNamespace, progress: Progress) -> Outcome:
    """Estimate the stages of a recipe for whose cost the table of stages names a function. Returns the table."""
    found = basis(how, recipe)
    costs: list[StageCost] = []
    busy = machine.load()
    progress.start("estimating", len(vars(recipe)), "stages")
    for number, stage in enumerate(vars(recipe).values(), 1):
        cost = named(STAGES[stage.command].cost)(found, stage)
        costs += [cost] if isinstance(cost, StageCost) else cost or []  # of several phases, several
        progress.update(number)
    progress.finish()
    notes, disk = [*found.notes, *_conditions(found)], sum(each.disk or 0 for each in costs)
    if found.rate is None and busy > _BUSY * machine.num_cores():
        notes.append(f"other work was running here (a load of {busy:.1f}): the times measured are too long")
    quota = machine.cpu_quota()
    if found.rate is None and quota is not None and quota < machine.num_cores(within_quota=False):
        notes.append(f"measured within a quota of {quota:g} of {machine.num_cores(within_quota=False)} cores")
    if found.rate is None:
        notes += _shortage(found, disk)
    for note in notes:
        progress.note(note)
    facts = {
        "stages": [asdict(each) for each in costs],
        "latent_shape": list(found.latents.train.shape),
        "classes": len(found.images.class_names),
        "precision": found.policy.name,
        "gpus": how.gpus,
        "measured": found.rate is None,
        "operations_per_second": found.rate,
        "notes": notes,
    }
    total = duration(sum(each.seconds or 0 for each in costs))
    about = "at least" if any(each.limit == "launches" for each in costs) else "about"
    known = "" if all(each.seconds is not None for each in costs) else " where that is known"
    verdict = f"takes {about} {total}{known} {_where(found)}, and up to {amount(disk)}B of disk"
    return Outcome(Path(how.recipe or "defaults"), summary=table(costs), verdict=verdict, facts=facts)


def _shortage(found: Basis, needed: int) -> list[str]:
    """Note where the disk of the runs has less room than latents, checkpoints and weights need."""
    folder: Path = found.generator.runs_dir
    free = shutil.disk_usage(machine.existing_parent(folder)).free
    if free >= needed:
        return []
    return [
        f"{folder} has {amount(free)}B of free disk, and {amount(needed)}B are needed: free some room, or train with"
        " `runs_dir` on another disk"
    ]


def _where(found: Basis) -> str:
    """Return the machine that the time is for."""
    number = f"{found.how.gpus} x " if found.how.gpus > 1 else ""
    if found.rate is not None:
        kind = found.how.where if found.how.where != "this" else "a machine"
        return f"on {number}{kind} at {amount(found.rate)}FLOP/s"
    if found.policy.device.type == "cuda":
        return f"on {number}{torch.cuda.get_device_name(found.policy.device)}, as measured"
    return f"on {number}{machine.processor_name()} with {torch.get_num_threads()} threads, as measured"


def _conditions(found: Basis) -> list[str]:
    """Note what the numbers are based on."""
    notes = [
        f"networks compute in {found.policy.name}; reading and decoding of images, validations, previews and eval are"
        " not in the times"
    ]
    if found.rate is None:
        notes.append(f"times are of {found.how.seconds:g} s of real steps of each stage on dummy data, in proportion")
    elif not found.launches:
        notes.append("times are FLOPs over the rate; small networks and batches reach less of it than large ones")
    else:
        notes.append(
            f"times are FLOPs over the rate, or {flops.LAUNCH * 1e6:.0f} us for each kernel launched where that is"
            " longer, which is the least; from JPEG or PNG, images/s are at most those that the CPU decodes"
        )
        if found.how.utilisation is None:
            small, large, most = flops.SMALL_UTILISATION, flops.UTILISATION, flops.LARGE / 1e6
            notes.append(
                f"not measured: that training reaches {large:.0%} of the data sheet's rate, {small:.0%} with networks"
                f" of fewer than {most:.0f} M parameters; `benchmarks/gpu.sh` measures it, `utilisation=SHARE` sets it"
            )
    if found.how.gpus > 1:
        notes.append("communication between GPUs is not in the times")
    if found.policy.device.type == "cpu":
        resident = machine.used_memory() / 1e6
        notes.append(f"memory is that of tensors; Python and what is loaded take about {resident:,.0f} MB besides")
    return notes
