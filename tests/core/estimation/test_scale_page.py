"""The estimates that docs/scale.md prints are those that are made."""

import re
from pathlib import Path

import pytest
import torch

from ldm.core.denoisers.dit_config import PRESETS, DiTConfig
from ldm.core.estimation import cost
from ldm.core.estimation.machines import MACHINES, UTILISATION
from ldm.core.system.precision import Policy

PAGE = (Path(__file__).parents[3] / "docs" / "scale.md").read_text(encoding="utf-8")
GPU = Policy(torch.device("cuda"), torch.bfloat16)


def rows(size: str) -> list[list[float]]:
    """Return the numbers of a size's rows, table by table."""
    found = re.findall(rf"^\| {re.escape(size)} \|(.*)\|$", PAGE, re.M)
    return [[float(re.sub(r"[^\d.]", "", cell)) for cell in row.split("|")] for row in found]


def config(size: str) -> DiTConfig:
    return DiTConfig(latent_channels=4, latent_size=32, num_classes=1000, **PRESETS[size.lower()])


def test_operations_and_memory_of_the_smallest_size_are_counted_as_printed() -> None:
    parameters, operations, *memory = rows("DiT-S/2")[0]
    assert cost.denoiser_operations(config("DiT-S/2")).training / 1e9 == pytest.approx(operations, abs=0.05)
    kept, recomputed = (cost.denoiser_memory(config("DiT-S/2"), 32, GPU, recompute) for recompute in (False, True))
    assert [kept.together / 1e9, recomputed.together / 1e9] == pytest.approx(memory[:2], abs=0.05)
    assert kept.weights / 4e6 == pytest.approx(parameters, abs=0.05)


@pytest.mark.parametrize("size", ["DiT-S/2", "DiT-B/2", "DiT-L/2", "DiT-XL/2"])
def test_images_a_second_are_the_printed_share_of_the_data_sheet(size: str) -> None:
    (_, operations, *_), images = rows(size)
    (named,) = re.findall(r"^\| \|( b200 .*)\|$", PAGE, re.M)
    machines = [name.split(",")[0].strip() for name in named.split("|")]
    assert f"at {UTILISATION * 100:.0f} %" in PAGE and len(machines) == len(images)
    for machine, number in zip(machines, images, strict=True):
        rate = MACHINES[machine].rates["bf16"] * UTILISATION / (operations * 1e9)
        assert rate == pytest.approx(number, rel=2e-3, abs=0.5), machine
