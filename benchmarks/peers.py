"""Other projects' own code, from public checkouts outside this repository: `--peers FOLDER` holds them by name."""

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

DIT, FAST_DIT, SIT, LIGHTNING_DIT = "DiT", "fast-DiT", "SiT", "LightningDiT"

# What the checkouts import and the benchmarks never call: image transforms, and layers for several GPUs.
_UNUSED = ("torchvision", "fairscale")


class PeerAbsentError(Exception):
    """A checkout, or a package that it needs, is not there; the benchmark says so and goes on without."""


def load(folder: Path, name: str, module: str) -> ModuleType:
    """Import a module of a checkout, such as "models" or "diffusion"; raises PeerAbsentError where it cannot be had."""
    root = folder / name
    if not root.is_dir():
        raise PeerAbsentError(f"no checkout of {name} at {root}")
    with _alone(root):
        try:
            return importlib.import_module(module)
        except ModuleNotFoundError as error:
            raise PeerAbsentError(f"{name} needs the package {error.name}: pip install {error.name}") from error


@contextmanager
def _alone(root: Path) -> Iterator[None]:
    """Let imports look in one checkout first, and forget its modules after: two checkouts both have a `models`."""
    before = set(sys.modules)
    finder = _Unused()
    sys.path.insert(0, str(root))
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.path.remove(str(root))
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            own = getattr(sys.modules[name], "__file__", None) or ""
            if own.startswith(str(root)) or name.partition(".")[0] in _UNUSED:
                del sys.modules[name]


class _Unused(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for packages of `_UNUSED` that are not installed: whatever is taken from them is an empty class."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] not in _UNUSED:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType:
        return _Empty(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


class _Empty(ModuleType):
    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _EmptyType(name, (), {})


class _EmptyType(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _EmptyType(name, (), {})
