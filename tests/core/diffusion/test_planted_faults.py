"""The suite is a suite: famous mistakes of this field, planted one at a time in a copy of the code, are caught."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MATHS = "tests/core/diffusion"


@dataclass(frozen=True)
class Fault:
    """In `file`, `right` (found there once) becomes `wrong`; `tests` are those to catch it."""

    name: str
    file: str
    right: str
    wrong: str
    tests: str = MATHS


FAULTS = [
    Fault(
        "sign of v",
        "core/diffusion/predictions.py",
        "return alpha * eps - sigma * x0",
        "return sigma * x0 - alpha * eps",
    ),
    Fault(
        "x0 from v with alpha and sigma exchanged",
        "core/diffusion/predictions.py",
        "return alpha * x_t - sigma * output",
        "return sigma * x_t - alpha * output",
    ),
    Fault(
        "x0's loss weight put on the eps error as it is",
        "core/diffusion/weightings.py",
        'if prediction == "eps":\n        return log_snr',
        'if prediction == "eps":\n        return torch.zeros_like(log_snr)',
    ),
    Fault(
        "min-SNR clipped from below",
        "core/diffusion/weightings.py",
        "log_snr.clamp(max=math.log(gamma))",
        "log_snr.clamp(min=math.log(gamma))",
    ),
    Fault(
        "trailing times off by one step of the table",
        "core/diffusion/times.py",
        "times = [round(i * num_steps / steps) / num_steps for i in down]",
        "times = [(round(i * num_steps / steps) - (i < steps)) / num_steps for i in down]",
    ),
    Fault(
        "guidance scale taken as the paper's w",
        "core/diffusion/guidance.py",
        "x0 = u + scale * (c - u)",
        "x0 = c + scale * (c - u)",
    ),
    Fault(
        "guided where the interval says not to",
        "core/diffusion/guidance.py",
        "(inside if low <= float(t) <= high else outside)",
        "(outside if low <= float(t) <= high else inside)",
    ),
    Fault(
        "classifier's gradient subtracted",
        "core/diffusion/guidance.py",
        "return denoise(x_t, t, cond) + strength",
        "return denoise(x_t, t, cond) - strength",
    ),
    Fault(
        "posterior variance with its ratio swapped",
        "core/diffusion/variance.py",
        "return beta, beta * sigma_s**2 / sigma_t**2",
        "return beta, beta * sigma_t**2 / sigma_s**2",
    ),
    Fault(
        "learned variance interpolated the wrong way round",
        "core/diffusion/variance.py",
        "return fraction * log_beta + (1 - fraction) * log_posterior",
        "return (1 - fraction) * log_beta + fraction * log_posterior",
    ),
    Fault(
        "zero terminal SNR without scaling back",
        "core/diffusion/schedules.py",
        "alphas = (alphas - alphas[-1]) * (alphas[0] / (alphas[0] - alphas[-1]))",
        "alphas = alphas - alphas[-1]",
    ),
    Fault(
        "cosine schedule without its square",
        "core/diffusion/schedules.py",
        "* (torch.pi / 2)) ** 2",
        "* (torch.pi / 2))",
    ),
    Fault(
        "Heun's second slope taken at the old time",
        "core/diffusion/samplers.py",
        "denoise(ahead * scale[i + 1], grid[i + 1], cond)",
        "denoise(ahead * scale[i + 1], t, cond)",
    ),
    Fault(
        "DPM-Solver++ with the steps' ratio inverted",
        "core/diffusion/samplers.py",
        "ahead = h[i] / (2 * h[i - 1])",
        "ahead = h[i - 1] / (2 * h[i])",
    ),
    Fault(
        "the bound trains the mean",
        "core/diffusion/objective.py",
        "predicted.detach()",
        "predicted",
        "tests/core/diffusion/test_objective.py",
    ),
    Fault(
        "the bound without its number of steps",
        "core/diffusion/objective.py",
        "bound = self.schedule.num_steps * variance",
        "bound = variance",
        "tests/core/diffusion/test_objective.py",
    ),
    Fault(
        "sampling eps from where alpha is next to nothing",
        "core/diffusion/predictions.py",
        "else schedule.time_at(MOST_NOISE)",
        "else 1.0",
        "tests/promises/test_promise_usable.py",
    ),
    Fault(
        "rotation that knows rows alone",
        "core/denoisers/layers.py",
        "for positions in (rows, columns)]",
        "for positions in (rows, rows)]",
        "tests/core/denoisers/test_layers.py",
    ),
    Fault(
        "queries normalised after their rotation",
        "core/denoisers/layers.py",
        """        q, k, v = self.split(x)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
""",
        """        q, k, v = self.qkv(x).unflatten(-1, (3 * self.heads, -1)).transpose(1, 2).chunk(3, dim=1)
        if rotary is not None:
            q, k = rotate(q, rotary), rotate(k, rotary)
        q, k = self.q_norm(q), self.k_norm(k)
""",
        "tests/core/denoisers/test_layers.py",
    ),
    Fault(
        "min-SNR's gamma left at its default",
        "core/diffusion/objective.py",
        "self.schedule.log_snr(t), self.min_snr_gamma)",
        "self.schedule.log_snr(t))",
        "tests/stages/test_training_choices.py",
    ),
    Fault(
        "times shifted off the table",
        "core/diffusion/objective.py",
        "return (times.on_table(t, self.schedule.num_steps) if self.on_table else t).float()",
        "return times.shift(times.on_table(t, self.schedule.num_steps) if self.on_table else t, self.shift).float()",
        "tests/core/diffusion/test_objective.py",
    ),
    Fault(
        "autoguidance with the weak model's variance",
        "core/pipeline/model.py",
        "weak, _ = _bare(model.weak, policy)",
        "weak, split = _bare(model.weak, policy)\n        for_ddpm |= {'variance': split.fraction} if split else {}",
        "tests/core/pipeline/test_guided.py",
    ),
    Fault(
        "the first step's lower bound taken from the first step's beta",
        "core/diffusion/variance.py",
        "torch.where(step > 1, posterior, _first_posterior(schedule)).log()",
        "torch.where(step > 1, posterior, beta).log()",
    ),
    Fault(
        "leading times by a whole stride",
        "core/diffusion/times.py",
        "times = [((i - 1) * num_steps // steps + 1 + offset) / num_steps for i in down]",
        "times = [((i - 1) * (num_steps // steps) + 1 + offset) / num_steps for i in down]",
    ),
    Fault(
        "the likelihood's other steps counted with the first",
        "core/metrics/likelihood.py",
        "(steps - 1) * terms[1:].mean(0)",
        "steps * terms[1:].mean(0)",
        "tests/core/metrics/test_likelihood.py",
    ),
    Fault(
        "kernel subsets all alike",
        "core/metrics/kernel.py",
        'generator(seed, "kernel distance", i)',
        'generator(seed, "kernel distance", 0)',
        "tests/core/metrics/test_kernel_distance.py",
    ),
    Fault(
        "the score's deviation divided by one part less",
        "core/metrics/inception_score.py",
        "scores.std(correction=0)",
        "scores.std(correction=1)",
        "tests/core/metrics/test_inception_score.py",
    ),
    Fault(
        "null class one too low",
        "core/conditioning/labels.py",
        "torch.full((n,), self.num_classes, device=device)",
        "torch.full((n,), self.num_classes - 1, device=device)",
        "tests/core/conditioning",
    ),
    Fault(
        "beta on the codebook's term",
        "core/autoencoders/quantizers.py",
        "self.config.commitment * F.mse_loss(vectors, chosen.detach())",
        "self.config.commitment * F.mse_loss(chosen, vectors.detach())",
        "tests/core/autoencoders/test_quantizers.py",
    ),
    Fault(
        "latents decoded without their mean",
        "core/autoencoders/codec.py",
        "* _per_channel(self.latent_std) + _per_channel(self.latent_mean)",
        "* _per_channel(self.latent_std)",
        "tests/core/autoencoders/test_latent_space.py",
    ),
]


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code and its tests, in another place."""
    target = tmp_path_factory.mktemp("copy")
    for name in ("ldm", "core", "stages", "cli", "tests", "recipes"):
        shutil.copytree(ROOT / name, target / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", target)
    return target


def run_tests(folder: Path, tests: str) -> subprocess.CompletedProcess[str]:
    program = [sys.executable, "-m", "pytest", tests, "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow"]
    program.append(f"--ignore={Path(__file__).relative_to(ROOT)}")  # It would notice every fault, by its text.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("tests", sorted({fault.tests for fault in FAULTS}))
def test_the_copy_passes_as_it_is(copy: Path, tests: str) -> None:
    result = run_tests(copy, tests)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_there_is_one_place_for_each_fault_and_tests_to_catch_it(fault: Fault) -> None:
    assert (ROOT / fault.file).read_text().count(fault.right) == 1, "the code has moved on: where does it go now?"
    assert (ROOT / fault.tests).exists()


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_caught(copy: Path, fault: Fault) -> None:
    path = copy / fault.file
    right = path.read_text()
    path.write_text(right.replace(fault.right, fault.wrong))
    try:
        result = run_tests(copy, fault.tests)
    finally:
        path.write_text(right)
    assert result.returncode == 1, result.stdout
