"""torch.compile keeps names, takes blocks to train and the whole to sample, and is refused without a compiler."""

import importlib
import sys

import pytest
import torch
from torch import nn

from ldm.core.errors import ConfigError
from ldm.core.system.compile import compiling_pays, maybe_compile
from ldm.core.system.precision import for_inference, resolve


def test_compile_that_is_not_wanted_leaves_the_network_alone() -> None:
    module = nn.Linear(2, 2)
    maybe_compile(module, False, torch.device("cpu"))
    assert module._compiled_call_impl is None


@pytest.fixture
def any_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that passes for a compiler, which torch must not take down as its own when it is first imported."""
    importlib.import_module("torch._inductor.config")
    monkeypatch.setenv("CXX", sys.executable)


@pytest.mark.usefixtures("any_compiler")
def test_compile_keeps_parameter_names() -> None:
    module = nn.Linear(2, 2)
    maybe_compile(module, True, torch.device("cpu"))
    assert module._compiled_call_impl is not None
    assert list(module.state_dict()) == ["weight", "bias"]


@pytest.mark.usefixtures("any_compiler")
@pytest.mark.parametrize("whole", [False, True])
def test_a_network_is_compiled_by_blocks_to_train_and_as_a_whole_to_sample(whole: bool) -> None:
    network = nn.Module()
    network.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
    if whole:
        for_inference(network, resolve("cpu", "fp32"))
    maybe_compile(network, True, torch.device("cpu"))
    assert (network._compiled_call_impl is not None) == whole
    assert [block._compiled_call_impl is not None for block in network.blocks] == [not whole] * 2


def test_only_a_long_training_is_worth_compiling_for() -> None:
    cpu = torch.device("cpu")
    assert compiling_pays(1e16, cpu)
    assert not compiling_pays(1e12, cpu)


def test_without_a_compiler_nothing_is_worth_compiling_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compiling_pays(1e16, torch.device("cpu"))


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="compiler"):
        maybe_compile(nn.Linear(2, 2), True, torch.device("cpu"))
