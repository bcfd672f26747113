"""torch.compile keeps names, takes blocks to train and the whole to sample, and is refused without a compiler."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from ldm.core.errors import ConfigError, Notice
from ldm.core.system.compile import compiling_pays, maybe_compile, reason_in, worth_compiling
from ldm.core.system.precision import for_inference, resolve
from tests.support.launcher import ROOT


def test_compile_that_is_not_wanted_leaves_the_network_alone() -> None:
    module = nn.Linear(2, 2)
    maybe_compile(module, False, torch.device("cpu"))
    assert module._compiled_call_impl is None


@pytest.fixture
def any_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something that passes for a compiler, which torch must not take down as its own when it is first imported."""
    importlib.import_module("torch._inductor.config")
    monkeypatch.setenv("CXX", sys.executable)
    monkeypatch.setattr("ldm.core.system.compile.why_not", lambda kind: None)


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


def test_without_a_compiler_nothing_is_worth_compiling_for_and_a_long_training_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not compiling_pays(1e16, torch.device("cpu"))
    with pytest.warns(Notice, match=r"not compiled, which takes longer: .*g\+\+ is missing \(install g\+\+"):
        assert not worth_compiling(1e16, torch.device("cpu"))


@pytest.mark.filterwarnings("error")
def test_a_short_training_and_one_where_nothing_can_be_compiled_say_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not worth_compiling(1e12, torch.device("cpu")) and not worth_compiling(1e20, torch.device("mps"))


def test_compile_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ConfigError, match="compiler"):
        maybe_compile(nn.Linear(2, 2), True, torch.device("cpu"))


def test_a_training_that_cannot_be_compiled_runs_as_it_is_with_one_notice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.core.system.compile.why_not", lambda kind: "fatal error: Python.h: No such file")
    with pytest.warns(Notice, match=r"not compiled, which takes longer: fatal error: Python\.h.*python3-dev"):
        assert not worth_compiling(1e16, torch.device("cpu"))
    assert not worth_compiling(1e12, torch.device("cpu"))


def test_compiling_that_was_asked_for_and_does_not_work_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ldm.core.system.compile.why_not", lambda kind: "no program may run in /noexec")
    with pytest.raises(ConfigError, match="torch cannot compile here: no program may run in /noexec"):
        maybe_compile(nn.Linear(2, 2), True, torch.device("cpu"))


COMPILED = "CppCompileError: C++ compile error\n\nCommand:\ng++ /tmp/a b/c.main.cpp -shared\n\nOutput:\n"


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (f"{COMPILED}c.main.cpp:2:10: fatal error: Python.h: No such file or directory\n    2 | #include", "Python.h"),
        (f"{COMPILED}cc1plus: fatal error: b/c.main.cpp: No such file\ncompilation terminated.", "b/c.main.cpp"),
        (f"{COMPILED}g++: error: unrecognized option", "unrecognized option"),
        (f"{COMPILED}/usr/bin/ld: cannot open output file", "output file"),
        ("OSError: /noexec/c.so: failed to map segment from shared object", "failed to map segment"),
    ],
)
def test_the_reason_is_the_compilers_and_not_that_compiling_failed(said: str, reason: str) -> None:
    assert reason in reason_in(said) and "\n" not in reason_in(said)


WITHOUT_HEADERS = """#!{python}
import os, sys
os.execvp("g++", ["g++", *(word for word in sys.argv[1:] if "include/python3" not in word)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("place", ["a space", "no headers", "works"])
def test_why_compiling_fails_is_found_by_trying(place: str, tmp_path: Path) -> None:
    folder, compiler = tmp_path / place, tmp_path / "gxx"
    folder.mkdir()
    compiler.write_text(WITHOUT_HEADERS.format(python=sys.executable))
    compiler.chmod(0o755)
    caches = folder if place == "a space" else tmp_path / "caches"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": str(caches)}
    environment |= {"CXX": str(compiler)} if place == "no headers" else {}
    code = "from ldm.core.system.compile import why_not; print(why_not('cpu'))"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    wanted = {"a space": "rror", "no headers": "Python.h", "works": "None"}[place]
    assert wanted in done.stdout.splitlines()[-1], done.stdout
