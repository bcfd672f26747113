"""torch-fidelity, the reference of the metrics, where it is installed."""

import importlib
import sys
from types import ModuleType

import pytest

_NEEDED = ("", ".datasets", ".transforms", ".transforms.functional")


class _Absent(ModuleType):
    """A module of which whatever is asked for is an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


def reference(name: str) -> ModuleType:
    """Import a module of torch-fidelity. Skips the test, saying so, where it is not installed.

    It imports torchvision for images, which its metrics on features never touch. Where there is none, or one built for
    another torch, something empty stands in while it is imported: `pip install --no-deps torch-fidelity` is enough.
    """
    if importlib.util.find_spec("torch_fidelity") is None:
        pytest.skip("needs torch-fidelity: pip install --no-deps torch-fidelity")
    if "torch_fidelity" in sys.modules or _fits("torchvision"):
        return importlib.import_module(f"torch_fidelity.{name}")
    modules = {f"torchvision{inner}": _Absent(f"torchvision{inner}") for inner in _NEEDED}
    for full_name, module in modules.items():
        parent, _, own = full_name.rpartition(".")
        if parent:
            setattr(modules[parent], own, module)
    sys.modules.update(modules)
    try:
        return importlib.import_module(f"torch_fidelity.{name}")
    finally:
        for full_name in modules:
            del sys.modules[full_name]


def _fits(name: str) -> bool:
    try:
        importlib.import_module(name)
    except (ImportError, RuntimeError):  # The latter from one built for another torch.
        return False
    return True
