"""Checks of `ldm doctor`: whether this machine and its packages can run the stages and store their runs.

Each check is a finding: `ok`; a `hint`, where something optional is missing or slow; or `broken`, with a remedy.
Only Python's standard library is imported before other packages are known to be installed.
"""

import importlib
import importlib.util
import os
import platform
import re
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from ...core.errors import UserError
from ...core.progress import Outcome
from ...core.runs.provenance import provenance
from ...core.system import machine
from ...core.system.threads import described
from ..configs.doctor import Doctor

GB = 1e9
LEAST_MEMORY, GOOD_MEMORY = 1 * GB, 4 * GB
LEAST_DISK, GOOD_DISK = 1 * GB, 10 * GB
GOOD_SYNC_RATE = 50.0  # a second; a checkpoint waits for about ten, a sample for two


@dataclass(frozen=True)
class Finding:
    """What one check found. remedy: what to do, where the state is not ok."""

    name: str
    state: Literal["ok", "hint", "broken"]
    value: str
    remedy: str | None = None

    def __str__(self) -> str:
        remedy = f"; hint: {self.remedy}" if self.remedy else ""
        return f"{self.state:<6}  {self.value}{remedy}"


def look(config: Doctor) -> Iterator[Finding]:
    """Check packages, then memory and disk, and if torch works, its device."""
    yield Finding("python", "ok", platform.python_version())
    made = provenance()
    commit = f", commit {made['git'][:12]}{'+' * made['git'].endswith('+')}" if made["git"] else ""
    yield Finding("ldm", "ok", f"{made['ldm']}{commit}")
    packages = _packages()
    yield packages
    torch = _torch()
    yield torch
    if importlib.util.find_spec("psutil") is not None:
        yield _memory()
    yield from _storage(config.runs_dir)
    yield from _extras()
    if "broken" not in (packages.state, torch.state):
        yield from _computing(config)


def conclude(config: Doctor, findings: Sequence[Finding]) -> Outcome:
    """Return the findings; the exit code is 2 if anything is broken."""
    broken = [finding.name for finding in findings if finding.state == "broken"]
    hints = sum(finding.state == "hint" for finding in findings)
    verdict = "is ready for training: nothing is broken" + (f", {hints} hint{'s' * (hints > 1)}" if hints else "")
    if broken:
        verdict = f"is not ready for training; broken: {', '.join(broken)}"
    return Outcome(
        config.runs_dir,
        summary={finding.name: str(finding) for finding in findings},
        verdict=verdict,
        facts={"checks": [asdict(finding) for finding in findings]},
        exit_code=2 if broken else 0,
    )


def _packages() -> Finding:
    """Compare the installed packages with the requirements of this version of ldm."""
    try:
        requirements = [line for line in metadata.requires("ldm") or [] if not re.search(r"^torch\b|extra ==", line)]
    except metadata.PackageNotFoundError:
        return Finding("packages", "hint", "ldm itself is not installed, only run", "pip install -e . in the checkout")
    wrong, wanted, found = [], [], []
    for line in requirements:
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0]
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            wanted.append(line)
            continue
        found.append(f"{name} {version}")
        if not satisfies(version, line):
            wrong.append(f"{name} is {version}, required is {line}")
            wanted.append(line)
    if wrong:
        # By their own names, for a checkout and a wheel; `ldm` on PyPI is another project.
        return Finding("packages", "broken", "; ".join(wrong), f"pip install {shlex.join(wanted)}")
    return Finding("packages", "ok", ", ".join(found))


def satisfies(version: str, requirement: str) -> bool:
    """Return whether a version is within the `>=` and `<` of a requirement; other bounds are ignored."""

    def numbers(text: str) -> list[int]:
        release = [int(part) for part in re.findall(r"\d+", re.split(r"[+a-z]", text)[0])]
        return release + [0] * (4 - len(release))

    bounds = re.findall(r"(>=|<)\s*([\w.]+)", requirement)
    return all(
        (numbers(version) >= numbers(b)) if sign == ">=" else (numbers(version) < numbers(b)) for sign, b in bounds
    )


def _torch() -> Finding:
    """Import torch, which may be installed and yet not load."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Finding("torch", "broken", f"does not load: {error}", "install it again, as pytorch.org says")
    return Finding("torch", "ok", str(torch.__version__))


def _computing(config: Doctor) -> Iterator[Finding]:
    """Check device, dtype, threads, and what --compile needs there."""
    import torch

    from ...core.runs.outputs import machine_policy
    from ...core.system import compile, precision

    try:
        policy = machine_policy(config.machine)
    except UserError as error:
        yield Finding("device", "broken", error.message, error.remedy)
        return
    yield _device(policy.device.type)
    units = precision.bf16_units(policy.device)
    reason = f"products in bf16 run on {units}" if units else "this machine has no bf16 units that would be faster"
    yield Finding("precision", "ok", f"{policy.name}; {reason}")
    threads, cores = torch.get_num_threads(), machine.num_cores()
    too_many = "lower OMP_NUM_THREADS or machine.threads to the number of cores" if threads > cores else None
    yield Finding("threads", "hint" if too_many else "ok", described(os.environ, threads), too_many)
    yield _compiling(policy.device.type, lambda: compile.require_compiler(policy.device), config.quick)


def _device(kind: str) -> Finding:
    import torch

    if kind == "cuda":
        cards = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            cards.append(f"{torch.cuda.get_device_name(index)}, {free / GB:.1f} of {total / GB:.1f} GB free")
        return Finding("device", "ok", "; ".join(f"cuda:{index} {card}" for index, card in enumerate(cards)))
    if kind == "cpu" and shutil.which("nvidia-smi") and not torch.cuda.is_available():
        seen = "cpu, though there is an NVIDIA driver: this torch sees no GPU"
        return Finding("device", "hint", seen, "install a CUDA build of torch, as pytorch.org says")
    return Finding("device", "ok", f"{kind}, {machine.processor_name()}")


def _compiling(kind: str, require: Callable[[], None], quick: bool) -> Finding:
    """Check what compiling needs, and unless it is to be quick, compile something."""
    from ...core.system.compile import why_not

    try:
        require()
    except UserError as error:
        return Finding("compile", "hint", error.message, error.remedy)
    compiler = os.environ.get("CXX", "g++")
    if kind == "cpu" and not _compiles_with_python(compiler):
        return Finding("compile", "hint", f"{compiler} finds no Python.h", "install Python's headers (python3-dev)")
    if not quick and (reason := why_not(kind)):
        remedy = "set TMPDIR to a folder without spaces in its name from which programs may run"
        return Finding("compile", "hint", f"torch cannot compile here: {reason}", remedy)
    return Finding("compile", "ok", f"--compile has {compiler if kind == 'cpu' else 'triton'}")


def _compiles_with_python(compiler: str) -> bool:
    """Return whether a C++ compiler finds Python's headers, as torch.compile needs."""
    command = [compiler, "-fsyntax-only", "-I", sysconfig.get_path("include"), "-x", "c++", "-"]
    done = subprocess.run(command, input=b"#include <Python.h>\n", capture_output=True, check=False)
    return done.returncode == 0


def _room(name: str, value: str, free: float, least: float, good: float, broken: str, hint: str) -> Finding:
    """Compare the free amount with the least that stages need, and with a comfortable amount."""
    if free < least:
        return Finding(name, "broken", value, broken)
    return Finding(name, "hint", value, hint) if free < good else Finding(name, "ok", value)


def _memory() -> Finding:
    free = machine.available_memory()
    broken = "end other programs, or give the container more"
    hint = "if it runs short, train with a smaller --batch-size, or data.cache_gb=0"
    return _room("memory", f"{free / GB:.1f} GB free", free, LEAST_MEMORY, GOOD_MEMORY, broken, hint)


def _storage(runs_dir: Path) -> Iterator[Finding]:
    """Check space, locks and speed of the disk where runs are written, or would be."""
    from ...core.runs.lock import occupy

    folder = machine.existing_parent(runs_dir)
    free = shutil.disk_usage(folder).free
    value = f"{free / GB:,.1f} GB free for {runs_dir}"
    elsewhere = "give a --runs-dir on another disk"
    try:
        with tempfile.TemporaryDirectory(prefix=".tmp-doctor-", dir=folder) as inside, occupy(Path(inside)):
            rate = machine.sync_rate(Path(inside))
    except (OSError, UserError) as error:
        reason = error.message if isinstance(error, UserError) else error.strerror
        yield Finding(
            "disk", "broken", f"{folder} cannot be written: {reason}", f"{elsewhere}, or change its permissions"
        )
        return
    remedy = f"free some room, or {elsewhere}"
    yield _room("disk", value, free, LEAST_DISK, GOOD_DISK, broken=remedy, hint=remedy)
    slow = f"checkpoints and samples wait for the disk: {elsewhere}" if rate < GOOD_SYNC_RATE else None
    yield Finding("fsync", "hint" if slow else "ok", f"{rate:,.0f} a second", slow)


def _extras() -> Iterator[Finding]:
    """Check packages that only some settings need."""
    for module, name, remedy in (
        ("torch_fidelity", "torch-fidelity", "pip install torch-fidelity, for FID by `ldm eval --features inception`"),
        ("tensorboard", "tensorboard", "pip install tensorboard, for train.tensorboard=yes"),
        ("pillow_heif", "pillow-heif", "pip install pillow-heif, for HEIC images"),
    ):
        if importlib.util.find_spec(module) is None:
            yield Finding(name, "hint", "not installed, optional", remedy)
        elif module == "torch_fidelity" and importlib.util.find_spec("torchvision") is None:
            value = f"{metadata.version(name)}, without the torchvision it needs"
            yield Finding(name, "hint", value, "install the torchvision of this torch, from the same source")
        else:
            yield Finding(name, "ok", metadata.version(name))
