"""One process of a training on GPUs: `python -m tests.support.one_of_several FOLDER [--shard]`, as torchrun starts it.

Alone (WORLD_SIZE 1), it makes a group of one by NCCL, and goes through what several would say to each other.
"""

import os
import sys
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from ldm.core.distributed import processes
from ldm.core.progress import Silent
from ldm.core.system.precision import Policy
from ldm.core.training.loop import train
from ldm.core.training.sharding import Sharded
from ldm.core.training.task import Batch
from tests.support.on_a_gpu import BATCH, FP32, PLAN, losses, task_of
from tests.support.plans import replace


def in_a_group_of_one() -> None:
    """Say everything to oneself."""
    dist.init_process_group("nccl" if FP32.device.type == "cuda" else "gloo", rank=0, world_size=1)
    assert dist.group.WORLD is not None
    processes._group = processes._Group(processes.World(), dist.group.WORLD)
    ones = torch.ones(3, 2, device=FP32.device)
    assert torch.equal(processes.all_reduce_mean(ones), ones) and torch.equal(processes.all_gather_rows(ones), ones)
    processes.broadcast_from_main([ones])
    expected = losses(FP32, steps=1)[0]
    task = task_of(FP32)
    data = task.load(Batch(np.arange(BATCH), np.arange(BATCH), 0))
    sharded = Sharded(task.network.cpu(), FP32)
    loss, _ = task.loss("denoiser", data)
    loss.backward()
    sharded.wait()
    assert abs(float(loss) - expected) < 1e-3 * expected, f"{float(loss)} {expected}"
    for parameter in sharded.local.parameters():
        assert parameter.device.type == FP32.device.type and parameter.grad is not None
    dist.destroy_process_group()


def among_several(folder: Path, shard: bool) -> None:
    """Train together with the others."""
    own = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if FP32.device.type == "cuda" else FP32.device
    with processes.process_group(own):
        policy = Policy(own, torch.float32)
        train(task_of(policy), replace(PLAN, shard=shard), policy, folder, Silent())


if __name__ == "__main__":
    if os.environ["WORLD_SIZE"] == "1":
        in_a_group_of_one()
    else:
        among_several(Path(sys.argv[1]), "--shard" in sys.argv)
