"""The precision policy: what auto chooses and what is refused."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from ldm.core.denoisers.dit import DiT
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.errors import ConfigError
from ldm.core.system import precision
from ldm.core.system.precision import bf16_works, for_inference, resolve

NO_CUDA = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
NO_MPS = pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")


def test_auto_on_a_cpu_is_bf16_exactly_where_there_are_units_for_it() -> None:
    units = torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    policy = resolve("cpu", "auto")
    assert policy.dtype == (torch.bfloat16 if units else torch.float32)
    assert not policy.needs_scaler


def test_auto_takes_bf16_on_a_cpu_that_says_it_has_the_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    assert resolve("cpu", "auto").name == "bf16"
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported")
    assert resolve("cpu", "auto").name == "fp32"


def test_bf16_whose_products_fail_is_not_taken_and_refused_where_it_is_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("could not create a primitive descriptor for a matmul primitive")

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.nn.functional, "linear", fail)
    bf16_works.cache_clear()
    try:
        assert resolve("cpu", "auto").name == "fp32"
        with pytest.raises(ConfigError, match="multiplies nothing in bf16"):
            resolve("cpu", "bf16")
    finally:
        bf16_works.cache_clear()


def test_bf16_without_its_fused_products_is_taken_only_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with ONEDNN_MAX_CPU_ISA=AVX2, with which plain products in bf16 still work."""

    def fail(*_: object) -> None:
        raise RuntimeError("could not create a primitive descriptor for the inner product forward propagation")

    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: True)
    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", fail, raising=False)
    precision._bf16_is_fused.cache_clear()
    try:
        assert resolve("cpu", "auto").name == "fp32"
        assert resolve("cpu", "bf16").name == "bf16"
    finally:
        precision._bf16_is_fused.cache_clear()


@pytest.mark.parametrize("name", ["fp32", "bf16"])
def test_products_run_in_the_format_asked_for_and_weights_stay_fp32(name: str) -> None:
    policy, linear = resolve("cpu", name), nn.Linear(4, 4)
    with policy.autocast():
        out = linear(torch.randn(2, 4))
    assert policy.name == name
    assert out.dtype == policy.dtype
    assert linear.weight.dtype == torch.float32


def test_frozen_weights_give_what_autocast_gives() -> None:
    torch.manual_seed(0)
    network = DiT(DiTConfig(latent_channels=2, latent_size=4, patch_size=2, width=16, depth=2, heads=2, num_classes=3))
    nn.init.normal_(network.final.weight)
    x, t, cond = torch.randn(3, 2, 4, 4), torch.rand(3), {"labels": torch.tensor([0, 1, 3])}
    for name in ("bf16", "fp32"):
        policy = resolve("cpu", name)
        with torch.no_grad(), policy.autocast():
            before = network.requires_grad_(False).eval()(x, t, cond)
        frozen = for_inference(copy.deepcopy(network), policy)
        with torch.no_grad(), policy.autocast():
            after = frozen(x, t, cond)
        assert frozen.blocks[0].mlp.up.weight.dtype == policy.dtype
        assert torch.equal(before, after)


@NO_CUDA
@NO_MPS
def test_auto_device_without_an_accelerator_is_the_cpu() -> None:
    assert resolve().device == torch.device("cpu")


@NO_CUDA
@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_cuda_that_is_not_there_is_refused_with_a_remedy(device: str) -> None:
    with pytest.raises(ConfigError, match=device) as caught:
        resolve(device)
    assert caught.value.remedy is not None
    assert "machine.device=cpu" in caught.value.remedy


@NO_MPS
def test_mps_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="mps"):
        resolve("mps")


@pytest.mark.parametrize("device", ["gpu", "", "cpu:1", "cuda:x", "cuda:-1", "mps:0"])
def test_an_unknown_device_is_refused(device: str) -> None:
    with pytest.raises(ConfigError, match="device="):
        resolve(device)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp16"):
        resolve("cpu", "fp16")


def test_an_unknown_format_is_refused() -> None:
    with pytest.raises(ConfigError, match="fp8"):
        resolve("cpu", "fp8")


def test_importing_the_policy_changes_no_setting_of_torch() -> None:
    code = (
        "import torch; before = (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision());"
        "import ldm.core.system.precision, ldm.core.denoisers;"
        "assert before == (torch.backends.cuda.matmul.allow_tf32, torch.get_float32_matmul_precision());"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
