"""The learning rate's closed form, what decays, clipping, and a state that goes through a file to the bit."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.core.errors import DataError
from ldm.core.training.optimizer import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    load_optimizer_state,
    optimizer_state,
)
from ldm.core.training.settings import Train


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(4, 6)
        self.linear = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.idle = nn.Linear(6, 2)
        self.frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.linear(self.table(x)))


SETTINGS = {"lr": 1e-2, "weight_decay": 0.1, "betas": (0.9, 0.95)}


def train(net: Net, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x = torch.randint(0, 4, (8,), generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (net(x) - 1).square().mean().backward()
        optimizer.step()


def rates_after(seen: Iterable[int], **settings: Any) -> list[float]:
    return [learning_rate(images, Train(**settings)) for images in seen]


def test_warm_up_is_linear_and_then_the_rate_stays() -> None:
    rates = rates_after((0, 25, 50, 100, 500, 1000), images=1000, lr=0.4, warmup=100)
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.4, 0.4])


@pytest.mark.parametrize(
    ("decay", "halfway", "quarter"), [("cosine", 0.5, (1 + math.sqrt(0.5)) / 2), ("linear", 0.5, 0.75)]
)
def test_the_rate_decays_to_zero_at_the_last_image(decay: str, halfway: float, quarter: float) -> None:
    rates = rates_after((200, 400, 600, 1000, 1200), images=1000, lr=2.0, warmup=200, decay=decay)
    assert rates == pytest.approx([2.0, 2 * quarter, 2 * halfway, 0.0, 0.0])


def test_a_cooldown_falls_to_zero_in_a_straight_line_over_the_last_images() -> None:
    seen = (50, 100, 600, 700, 800, 900, 1000, 1100)
    rates = rates_after(seen, images=1000, lr=2.0, warmup=100, cooldown=400)
    assert rates == pytest.approx([1.0, 2.0, 2.0, 1.5, 1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("decay", ["cosine", "linear", "exponential"])
def test_after_its_own_images_a_decay_is_followed_by_a_rise_the_peak_and_the_cooldown(decay: str) -> None:
    shorter = range(0, 400, 20)
    settings = {"lr": 2.0, "warmup": 100, "decay": decay}
    longer = rates_after(shorter, images=1000, decay_images=400, cooldown=200, **settings)
    assert longer == rates_after(shorter, images=400, **settings)
    after = rates_after((400, 450, 500, 800, 900, 1000), images=1000, decay_images=400, cooldown=200, **settings)
    assert after == pytest.approx([0.0, 1.0, 2.0, 2.0, 1.0, 0.0])


def test_parts_of_a_schedule_that_do_not_fit_are_refused() -> None:
    for wrong, why in (
        ({"decay_images": 10}, "a constant rate has no decay"),
        ({"cooldown": 10, "decay": "cosine"}, "cosine decay is still falling"),
        ({"cooldown": 101}, "cooldown are 101 images, more than the 100"),
        ({"cooldown": 50, "decay": "linear", "decay_images": 50}, "are 110 images, more than the 100"),
    ):
        with pytest.raises(ValueError, match=why):
            Train.model_validate({"images": 100, "warmup": 10, **wrong})


def test_a_training_shorter_than_its_warm_up_only_rises() -> None:
    rates = rates_after((0, 25, 50), images=50, lr=1.0, warmup=100, decay="cosine")
    assert rates == pytest.approx([0, 0.25, 0.5])


def test_exponential_decay_by_epochs_is_torchs_schedule() -> None:
    """`ExponentialLR` with gamma 0.1^(1/5), stepped after each of 5 epochs of 200 images."""
    optimizer = torch.optim.SGD(Net().parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, gamma=0.1 ** (1 / 5))
    theirs = []
    for _ in range(5):
        theirs += 4 * schedule.get_last_lr()
        optimizer.step()
        schedule.step()
    ours = rates_after(range(0, 1000, 50), images=1000, lr=1e-2, warmup=0, decay="exponential", decay_every=200)
    assert ours == pytest.approx(theirs)
    assert rates_after([1000], images=1000, lr=1.0, warmup=0, decay="exponential") == pytest.approx([0.1])


def test_only_weights_of_linear_maps_decay() -> None:
    net = Net()
    optimizer = build_optimizer(net, **SETTINGS)
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    for parameter in net.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
    optimizer.step()
    changed = {name for name, parameter in net.named_parameters() if not torch.equal(parameter, before[name])}
    assert changed == {"linear.weight", "idle.weight"}
    torch.testing.assert_close(net.linear.weight.detach(), before["linear.weight"] * (1 - 0.01 * 0.1))


def test_the_fused_kernel_is_used_on_the_cpu() -> None:
    assert build_optimizer(Net(), **SETTINGS).defaults["fused"] is True


def test_clipping_scales_the_gradient_to_the_norm_and_returns_the_norm_before() -> None:
    net = Net()
    optimizer = build_optimizer(net, **SETTINGS)
    net(torch.tensor([0, 1])).sum().mul(1e4).square().backward()
    gradients = [p.grad.clone() for p in net.parameters() if p.grad is not None]
    norm = math.sqrt(sum(float(g.square().sum()) for g in gradients))
    for clip, after in ((0.0, norm), (2 * norm, norm), (norm / 4, norm / 4)):
        for parameter, gradient in zip((p for p in net.parameters() if p.grad is not None), gradients, strict=True):
            parameter.grad.copy_(gradient)
        returned = clip_gradients(optimizer, clip)
        assert float(returned) == pytest.approx(norm, rel=1e-5)
        left = math.sqrt(sum(float(p.grad.square().sum()) for p in net.parameters() if p.grad is not None))
        assert left == pytest.approx(after, rel=1e-4)


def test_training_resumed_from_a_file_is_the_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole = Net()
    whole_optimizer = build_optimizer(whole, **SETTINGS)
    train(whole, whole_optimizer, range(20))

    part = Net()
    optimizer = build_optimizer(part, **SETTINGS)
    train(part, optimizer, range(7))
    save_file(optimizer_state(optimizer, part), tmp_path / "optimizer.safetensors")
    weights = {name: tensor.clone() for name, tensor in part.state_dict().items()}

    resumed = Net()
    resumed.load_state_dict(weights)
    optimizer = build_optimizer(resumed, **SETTINGS)
    load_optimizer_state(optimizer, resumed, load_file(tmp_path / "optimizer.safetensors"))
    train(resumed, optimizer, range(7, 20))

    for (name, a), (_, b) in zip(whole.named_parameters(), resumed.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    expected, found = optimizer_state(whole_optimizer, whole), optimizer_state(optimizer, resumed)
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert float(found["linear.weight.step"]) == 20
    assert float(found["idle.weight.step"]) == 0


def test_moments_of_weights_laid_out_channels_last_go_through_a_file_to_the_bit(tmp_path: Path) -> None:
    """The fused kernel does not look at strides: moments in another order would be those of other weights."""

    def convolution() -> tuple[nn.Conv2d, torch.optim.Optimizer]:
        torch.manual_seed(0)
        network = nn.Conv2d(3, 8, 3)
        network.weight.data = network.weight.data.contiguous(memory_format=torch.channels_last)
        return network, build_optimizer(network, **SETTINGS)

    def steps(network: nn.Conv2d, optimizer: torch.optim.Optimizer, numbers: range) -> None:
        for number in numbers:
            x = torch.randn(2, 3, 5, 5, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            network(x).square().mean().backward()
            optimizer.step()

    whole, part, resumed = convolution(), convolution(), convolution()
    steps(*whole, range(6))
    steps(*part, range(3))
    held = {name: tensor.contiguous() for name, tensor in optimizer_state(part[1], part[0]).items()}
    save_file(held, tmp_path / "optimizer.safetensors")
    resumed[0].load_state_dict(part[0].state_dict())
    load_optimizer_state(resumed[1], resumed[0], load_file(tmp_path / "optimizer.safetensors"))
    steps(*resumed, range(3, 6))
    assert torch.equal(resumed[0].weight, whole[0].weight)


def test_the_state_before_the_first_step_is_zeros_and_starts_the_same(tmp_path: Path) -> None:
    fresh, loaded = Net(), Net()
    fresh_optimizer, optimizer = build_optimizer(fresh, **SETTINGS), build_optimizer(loaded, **SETTINGS)
    state = optimizer_state(optimizer, loaded)
    assert all(torch.count_nonzero(tensor) == 0 for tensor in state.values())
    load_optimizer_state(optimizer, loaded, state)
    train(fresh, fresh_optimizer, range(3))
    train(loaded, optimizer, range(3))
    assert torch.equal(fresh.linear.weight, loaded.linear.weight)


def test_a_state_belongs_to_names_not_to_positions() -> None:
    first = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    optimizer = build_optimizer(first, **SETTINGS)
    first["a"](torch.ones(1, 3)).sum().backward()
    optimizer.step()
    second = nn.ModuleDict({"b": nn.Linear(3, 3), "a": nn.Linear(3, 3)})
    other = build_optimizer(second, **SETTINGS)
    load_optimizer_state(other, second, optimizer_state(optimizer, first))
    assert torch.equal(other.state[second["a"].weight]["exp_avg"], optimizer.state[first["a"].weight]["exp_avg"])
    assert float(other.state[second["b"].weight]["step"]) == 0


def test_a_state_of_another_network_is_refused_by_name() -> None:
    net = Net()
    optimizer = build_optimizer(net, **SETTINGS)
    state = optimizer_state(optimizer, net)
    with pytest.raises(DataError, match=r"idle\.bias\.exp_avg"):
        load_optimizer_state(optimizer, net, {**state, "idle.bias.exp_avg": torch.zeros(3)})
    with pytest.raises(DataError, match=r"linear\.weight\.step"):
        load_optimizer_state(optimizer, net, {k: v for k, v in state.items() if k != "linear.weight.step"})
    with pytest.raises(DataError, match=r"other\.weight\.step"):
        load_optimizer_state(optimizer, net, {**state, "other.weight.step": torch.zeros(())})
