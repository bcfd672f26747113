"""Muon: its directions are orthogonal, its steps torch's own, and its state goes through a file to the bit."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ldm.core.denoisers import registry
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.errors import DataError
from ldm.core.system.flops import Memory, Passes
from ldm.core.training import muon
from ldm.core.training.muon import MuonAdamW, cost_with, muon_weights, orthogonalised
from ldm.core.training.optimizer import build_optimizer, load_optimizer_state, optimizer_state
from ldm.core.training.settings import DenoiserTrain, Train


class Net(nn.Module):
    """A linear map, two in a list, a convolution and a depthwise one in a row, and an embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(6, 8)
        self.blocks = nn.ModuleList([nn.Linear(8, 24), nn.Linear(24, 8)])
        self.convolutions = nn.Sequential(nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4))
        self.table = nn.Embedding(3, 8)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x) + self.table(torch.arange(3)).mean(0)
        for block in self.blocks:
            hidden = block(hidden)
        out: Tensor = self.convolutions(hidden.reshape(-1, 8, 1, 1))
        return out


MUON: dict[str, Any] = {"lr": 1e-3, "muon_lr": 0.02, "weight_decay": 0.1, "dtype": torch.bfloat16}


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("shape", [(16, 16), (12, 48), (48, 12), (1, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_direction_has_the_bases_of_the_matrix_and_singular_values_near_one(
    shape: tuple[int, int], dtype: torch.dtype
) -> None:
    u, values, v = torch.linalg.svd(torch.randn(shape, generator=torch.Generator().manual_seed(1)), full_matrices=False)
    values = values.clamp(min=values.max() / 20)  # smaller ones need more than five iterations
    found = orthogonalised((u @ values.diag() @ v).to(dtype)[None])[0].float()
    inside = u.T @ found @ v.T
    assert inside.diagonal().min() > 0.6 and inside.diagonal().max() < 1.25
    assert (inside - inside.diagonal().diag()).norm() < 0.05 * inside.norm()


def test_steps_are_those_of_torchs_muon_and_adamw() -> None:
    ours, theirs = Net(), Net()
    optimizer = build_optimizer(ours, **MUON)
    matrices = [block.weight for block in theirs.blocks]
    muon = torch.optim.Muon(matrices, lr=0.02, weight_decay=0.1, momentum=0.95)
    names = dict(theirs.named_parameters())
    kernel = names.pop("convolutions.0.weight")  # torch's takes no kernels
    decayed = [names[name] for name in ("first.weight", "convolutions.1.weight")]
    rest = [p for p in names.values() if all(p is not each for each in [*matrices, *decayed])]
    groups = [{"params": decayed}, {"params": rest, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-3, weight_decay=0.1, fused=True)
    kernel.requires_grad_(False)
    for step in range(3):
        for net, steppers in ((ours, [optimizer]), (theirs, [muon, adamw])):
            x = torch.randn(16, 6, generator=torch.Generator().manual_seed(step))
            net.zero_grad()
            net.convolutions[0].weight.data.fill_(0.05)
            (net(x) - 1).square().mean().backward()
            for each in steppers:
                each.step()
    for name, parameter in names.items():
        torch.testing.assert_close(ours.get_parameter(name), parameter, rtol=1e-5, atol=1e-6)


def test_a_kernel_steps_as_the_matrix_of_its_output_channels() -> None:
    net = Net()
    optimizer = build_optimizer(net, **{**MUON, "weight_decay": 0.0})
    kernel = net.convolutions[0].weight
    before = kernel.detach().clone()
    train(net, optimizer, range(1))
    assert kernel.grad is not None
    expected = orthogonalised((0.05 * 0.95 * kernel.grad + 0.05 * kernel.grad).flatten(1).bfloat16()[None])
    torch.testing.assert_close((before - kernel).flatten(1) / 0.02, expected[0].float(), rtol=0.02, atol=1e-3)


def test_weights_of_one_shape_step_together_as_each_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    together, apart = Net(), Net()
    for net in (together, apart):
        torch.manual_seed(1)
        net.blocks.extend([nn.Linear(8, 24), nn.Linear(24, 8)])
    train(together, build_optimizer(together, **MUON), range(3))
    monkeypatch.setattr(muon, "_STACKED", 1)
    train(apart, build_optimizer(apart, **MUON), range(3))
    assert not torch.equal(together.blocks[0].weight, together.blocks[2].weight)
    for name, parameter in together.named_parameters():
        torch.testing.assert_close(parameter, apart.get_parameter(name), rtol=1e-6, atol=1e-8, msg=name)


def test_it_steps_the_repeated_layers_of_networks_and_adamw_the_others() -> None:
    net = Net()
    assert [id(each) for each in muon_weights(net)] == [id(each.weight) for each in (*net.blocks, net.convolutions[0])]
    dit = registry.build(
        DiTConfig(latent_channels=2, latent_size=4, num_classes=3, patch_size=2, width=8, depth=2, heads=2)
    )
    mine = {id(each) for each in muon_weights(dit)}
    outside = {name.split(".")[0] for name, each in dit.named_parameters() if each.ndim > 1 and id(each) not in mine}
    assert outside == {"patch", "time", "label", "final"}
    names = [name for name, each in dit.named_parameters() if id(each) in mine]
    assert len(names) == 2 * 5 + 1 and all(name.endswith(".weight") for name in names), "modulation too"


def test_frozen_weights_stay() -> None:
    net = Net()
    net.blocks[0].requires_grad_(False)
    before = net.blocks[0].weight.detach().clone()
    train(net, build_optimizer(net, **MUON), range(2))
    assert torch.equal(net.blocks[0].weight, before)


def test_the_state_goes_through_a_file_to_the_bit(tmp_path: Path) -> None:
    whole, part = Net(), Net()
    train(whole, build_optimizer(whole, **MUON), range(6))
    optimizer = build_optimizer(part, **MUON)
    train(part, optimizer, range(3))
    save_file(optimizer_state(optimizer, part), tmp_path / "optimizer.safetensors")
    resumed = Net()
    resumed.load_state_dict(part.state_dict())
    optimizer = build_optimizer(resumed, **MUON)
    load_optimizer_state(optimizer, resumed, load_file(tmp_path / "optimizer.safetensors"))
    train(resumed, optimizer, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_a_state_before_the_first_step_is_where_it_starts() -> None:
    whole, loaded = Net(), Net()
    first, second = build_optimizer(whole, **MUON), build_optimizer(loaded, **MUON)
    load_optimizer_state(second, loaded, optimizer_state(second, loaded))
    for net, optimizer in ((whole, first), (loaded, second)):
        train(net, optimizer, range(2))
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), loaded.parameters(), strict=True))


def test_the_state_of_the_other_optimizer_is_refused() -> None:
    net = Net()
    muon, adamw = build_optimizer(net, **MUON), build_optimizer(net, lr=1e-3)
    assert isinstance(muon, MuonAdamW) and not isinstance(adamw, MuonAdamW)
    for to, of in ((muon, adamw), (adamw, muon)):
        with pytest.raises(DataError, match=r"does not fit this network at blocks\.0\.weight"):
            load_optimizer_state(to, net, optimizer_state(of, net))


def test_its_cost_is_one_moment_less_and_the_products_of_its_iterations() -> None:
    net = Net()
    counted = Passes(1, 3, 10, 20, 4), Memory(400, 400, 8000, 400, 50, 9000)
    assert cost_with("adamw", net, *counted) == counted
    passes, memory = cost_with("muon", net, *counted)
    numbers = [24 * 8, 8 * 24, 4 * 72]
    assert memory.moments == 8000 - 4 * sum(numbers) and memory.together == 9000 - 4 * sum(numbers)
    assert passes.optimizer == 10 * (2 * (2 * 8 * 8 * 24 + 8**3) + 2 * 4 * 4 * 72 + 4**3)
    assert passes.optimizer_kernels > 4 + 3 * 15


def test_settings_without_use_are_refused() -> None:
    for section, wrong, why in (
        (Train, {"muon_lr": 0.05}, "optimizer is adamw: set it to muon"),
        (DenoiserTrain, {"optimizer": "muon", "shard": True}, "whole matrices in each process"),
    ):
        with pytest.raises(ValueError, match=why):
            section.model_validate(wrong)
    assert Train.model_validate({"optimizer": "muon", "muon_lr": 0.05}).muon_lr == 0.05
