"""The laws of the layout: imports point down, every folder is packaged, nothing heavy loads early, torchrun agrees."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ldm.cli.keys import settings_of
from ldm.core.autoencoders.families import FAMILIES as AUTOENCODERS
from ldm.core.autoencoders.pretrained import CLASSES
from ldm.core.denoisers.families import FAMILIES as DENOISERS
from ldm.stages.table import STAGES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("cli", "stages", "core")

# What stands in a line of `core` may import what stands in the lines above it. CONTRIBUTING.md shows the same table.
LEVELS = (
    ("colours", "diffusion", "errors", "locks", "progress", "seeds"),
    ("conditioning", "files"),
    ("settings",),
    ("system",),
    ("distributed",),
    ("runs",),
    ("autoencoders", "denoisers", "features", "images"),
    ("autoregressive", "curation", "figures", "latents", "metrics"),
    ("pipeline", "plots"),
    ("interchange", "training"),
)
APART = ("__init__", "command", "configs", "table", "tools")  # of what lies in stages, what is no stage
STAGE_MODULES = {f"ldm.stages.{path.stem}" for path in (ROOT / "stages").iterdir() if path.stem not in APART}

# torchrun's parser takes what abbreviates its own options, even after the script's name. `--num` abbreviates
# `--numa-binding`; sampling is not something one gives to torchrun often, and its full alias always works.
EXEMPT = {"--num": "--count"}


def sources(folder: str = "") -> list[Path]:
    """List the source files of the three folders, or of one folder."""
    return sorted(path for top in ([folder] if folder else FOLDERS) for path in (ROOT / top).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(("ldm", *(part for part in parts if part != "__init__")))


def imports_of(name: str, is_package: bool, tree: ast.AST) -> Iterator[str]:
    """Yield the absolute dotted names of all that a module imports, anywhere in it."""
    package = name if is_package else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join((*above, *filter(None, (node.module,))))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def breaks_the_law(name: str, imported: str) -> str | None:
    """Say which rule an import breaks."""

    def within(package: str, module: str) -> bool:
        return module == package or module.startswith(package + ".")

    if not within("ldm", imported):
        return None
    if within("ldm.core.diffusion", name) and not within("ldm.core.diffusion", imported):
        return "core/diffusion imports nothing else of the project"
    if within("ldm.core", name) and not within("ldm.core", imported) and imported != "ldm.__version__":
        return "core imports neither stages nor cli"
    if within("ldm.stages", name) and within("ldm.cli", imported):
        return "stages do not import cli"
    for stage in STAGE_MODULES:
        if within("ldm.stages", name) and within(stage, imported) and not within(stage, name):
            return "stages do not import each other"
    return None


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_point_down(path: Path) -> None:
    name = module_name(path)
    imported = imports_of(name, path.name == "__init__.py", ast.parse(path.read_text()))
    broken = {target: reason for target in imported if (reason := breaks_the_law(name, target))}
    assert not broken


@pytest.mark.parametrize(
    ("name", "code", "is_broken"),
    [
        ("ldm.core.diffusion.schedules", "from ..errors import ConfigError", True),
        ("ldm.core.diffusion.schedules", "from .predictions import x0", False),
        ("ldm.core.diffusion.schedules", "import torch", False),
        ("ldm.core.images.order", "from ...stages import configs", True),
        ("ldm.core.images.order", "def f():\n    from ldm.cli import main", True),
        ("ldm.core.images.order", "from .. import seeds", False),
        ("ldm.stages.sample", "from .train_denoiser import run", True),
        ("ldm.stages.sample", "from . import train_denoiser", True),
        ("ldm.stages.tools.export", "from ..encode import run", True),
        ("ldm.stages.sample", "from ..cli import console", True),
        ("ldm.stages.sample", "from .configs import Sample\nfrom ..core import seeds", False),
        ("ldm.cli.main", "from ..stages.configs import STAGES\nfrom ..core.errors import UserError", False),
    ],
)
def test_the_check_of_imports_tells_good_from_bad(name: str, code: str, is_broken: bool) -> None:
    found = [breaks_the_law(name, target) for target in imports_of(name, False, ast.parse(code))]
    assert any(found) == is_broken


def level_of(module: str) -> int | None:
    """Return the line of `LEVELS` that a module of core belongs to; None for core itself."""
    parts = module.split(".")
    return next((number for number, names in enumerate(LEVELS) if len(parts) > 2 and parts[2] in names), None)


@pytest.mark.parametrize("path", sources("core"), ids=module_name)
def test_core_is_made_of_levels_that_import_only_those_below(path: Path) -> None:
    name = module_name(path)
    if name == "ldm.core":
        return
    own = level_of(name)
    assert own is not None, f"{name} has no level"
    for target in imports_of(name, path.name == "__init__.py", ast.parse(path.read_text())):
        if target.startswith("ldm.core.") and target.split(".")[2] != name.split(".")[2]:
            below = level_of(target)
            assert below is not None and below < own, f"{name} imports {target}"


def test_the_table_of_levels_is_the_one_that_contributors_read() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = [re.findall(r"`(\w+)`", line.split("|")[2]) for line in page.splitlines() if re.match(r"\| \d \|", line)]
    assert [sorted(row) for row in rows] == [sorted(names) for names in LEVELS]


@pytest.mark.parametrize("path", sources(), ids=module_name)
def test_imports_inside_the_folders_are_relative(path: Path) -> None:
    absolute = [
        node.lineno
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "ldm")
        or (isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "ldm" for alias in node.names))
    ]
    assert not absolute


@pytest.mark.parametrize("path", [*sources("core"), *sources("stages")], ids=module_name)
def test_core_and_stages_print_nothing(path: Path) -> None:
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    assert not [node.lineno for node in calls if isinstance(node.func, ast.Name) and node.func.id == "print"]


# A family's own files: its config and network, the line that registers it, and its form in other projects. The names of
# commands and of kinds on disk are older than families, and stay; "identity" is a key of settings, too.
READERS = tuple(f"core/autoencoders/{name}" for name in ("families", "pretrained", "published", "registry", "taef2"))
OWN_FILES = {
    "DiT": (
        *("core/denoisers/dit", "core/denoisers/text_dit", "core/denoisers/noisy_"),
        *("core/denoisers/families", "core/interchange/"),
    ),
    "LinearDiT": ("core/denoisers/linear_dit", "core/denoisers/families", "core/interchange/sana"),
    "TextDiT": ("core/denoisers/text_dit", "core/denoisers/families"),
    "MMDiT": ("core/denoisers/mmdit", "core/denoisers/families", "core/interchange/sd3"),
    "UNet": ("core/denoisers/unet", "core/denoisers/families", "core/interchange/unet"),
    "MnistUNet": ("core/denoisers/mnist_unet", "core/denoisers/families"),
    "VQVAE": ("core/autoencoders/vq", "core/autoencoders/families", "core/interchange/vqmodel"),
    "KLAutoencoder": ("core/autoencoders/kl", "core/autoencoders/families", "core/interchange/autoencoder_kl"),
    "MSVQ": ("core/autoencoders/msvq", "core/autoencoders/multiscale", "core/autoencoders/families"),
    "DCAutoencoder": ("core/autoencoders/dc", "core/autoencoders/families", "core/interchange/autoencoder_dc"),
    "IdentityCodec": ("core/autoencoders/identity", "core/autoencoders/families", "core/settings/fields"),
    "TAEF2": READERS,
    **dict.fromkeys(CLASSES, (*READERS, "core/interchange/")),
}
OLDER = {
    *("core/runs/roles.py", "stages/table.py", "stages/tools/import_model.py"),
    *("stages/configs/denoiser.py", "stages/configs/autoencoder.py"),
    "core/interchange/unet.py",  # diffusers' name for a part of a pipeline
}


@pytest.mark.parametrize("path", [*sources("core"), *sources("stages")], ids=module_name)
def test_no_family_is_named_outside_its_own_files(path: Path) -> None:
    """Neither its classes, nor its modules, nor the string of its name."""
    place, tree = path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())
    imported = set(imports_of(module_name(path), path.stem == "__init__", tree))
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    names |= {each.rpartition(".")[2] for each in imported}
    strings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)}
    for kind, family in {**DENOISERS, **AUTOENCODERS}.items():
        module, _, network = family.network.partition(":")
        if place.startswith(OWN_FILES[network]):
            continue
        config = family.config.__module__
        modules = config, f"{config.rpartition('.')[0]}.{module}"
        assert not [each for each in imported if each.startswith(modules)]
        assert not names & {network, family.config.__name__}
        assert kind not in strings or place in OLDER, f"{kind!r} in {place}"


def test_the_packages_listed_are_the_folders_on_disk() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {module_name(path.parent / "__init__.py") for path in sources()}
    assert sorted(settings["packages"]) == sorted({"ldm", "ldm.recipes", *folders})
    mapped = {f"ldm.{folder}": folder for folder in (*FOLDERS, "recipes")}
    assert settings["package-dir"] == {"ldm": "ldm", **mapped}
    assert all((path.parent / "__init__.py").is_file() for path in sources())


def test_importing_the_command_line_loads_no_torch_and_no_stage() -> None:
    program = (
        "import sys, ldm.cli.main; "
        "loaded = {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules); "
        "loaded |= {name for name in sys.modules if name.startswith('ldm.stages.')}; "
        "loaded -= {'ldm.stages.table', 'ldm.stages.command'}; "
        "assert not loaded, loaded"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_no_flag_is_one_that_torchrun_would_take_for_its_own() -> None:
    from torch.distributed.run import get_args_parser

    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    flags_of = {
        command: {flag for s in settings_of(model) for flag in (*s.flags, *s.off_flags)}
        | {"--config", "--quiet", "--json"}
        for command, model in [(name, each.settings) for name, each in STAGES.items()]
    }
    for command, flags in flags_of.items():
        taken = {flag for flag in flags if any(option.startswith(flag) for option in theirs)}
        assert taken <= set(EXEMPT), f"ldm {command}"
        assert {EXEMPT[flag] for flag in taken} <= flags - taken
    assert "--count" in flags_of["sample"] and not any(option.startswith("--count") for option in theirs)


def test_torchrun_hands_every_flag_on() -> None:
    from torch.distributed.run import get_args_parser

    for command, stage in STAGES.items():
        model = stage.settings
        flags = [flag for s in settings_of(model) for flag in (*s.flags, *s.off_flags) if flag not in EXEMPT]
        typed = ["--nproc-per-node", "2", "-m", "ldm", command, "-c", "mnist", *flags]
        parsed = get_args_parser().parse_args(typed)
        assert parsed.training_script_args == [command, "-c", "mnist", *flags]
