"""The EMA against its closed form."""

import pytest
import torch
from torch import nn

from ldm.core.errors import DataError
from ldm.core.training.ema import EMA


class Counter(nn.Module):
    """A weight, a floating buffer, a counting buffer, and a buffer that is not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))
        self.register_buffer("codes", torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))
        self.register_buffer("table", torch.ones(4), persistent=False)

    def become(self, value: float) -> None:
        with torch.no_grad():
            self.weight.fill_(value)
            self.codes.fill_(-value)
            self.seen.fill_(int(value))


def test_the_average_is_its_closed_form_with_warm_up() -> None:
    module, decay = Counter(), 0.5
    ema, expected = EMA(module, decay), 0.0
    for n, value in enumerate([4.0, -2.0, 7.0, 1.0, 5.0, 3.0, 9.0, 2.0, 2.0, 8.0]):
        module.become(value)
        ema.update()
        d = min(decay, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * value
    assert d == decay
    assert ema.num_updates == 10
    torch.testing.assert_close(ema.state()["weight"], torch.full((3,), expected))
    torch.testing.assert_close(ema.state()["codes"], torch.full((2,), -expected))
    assert int(ema.state()["seen"]) == 8
    assert "table" not in ema.state()


def test_the_first_update_takes_nine_tenths_of_the_weights() -> None:
    module = Counter()
    ema = EMA(module, 0.9999)
    module.become(1.0)
    ema.update()
    torch.testing.assert_close(ema.state()["weight"], torch.full((3,), 0.9))


def test_statistics_of_batch_norm_are_copied() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    ema = EMA(module, 0.9999)
    for _ in range(3):
        module(torch.randn(8, 3, 4, 4) + 5)
        ema.update()
    assert torch.equal(ema.state()["1.running_mean"], module[1].running_mean) and module[1].running_mean.abs().max() > 0
    assert torch.equal(ema.state()["1.running_var"], module[1].running_var)


def test_decay_zero_follows_the_weights_exactly() -> None:
    module = Counter()
    ema = EMA(module, 0.0)
    for value in (0.1, 0.7, -3.3):
        module.become(value)
        ema.update()
        assert torch.equal(ema.state()["weight"], module.weight)


def test_weights_come_back_to_the_bit_after_evaluation() -> None:
    module = Counter()
    ema = EMA(module, 0.5)
    module.become(0.1)
    ema.update()
    weights, averages = module.weight.detach().clone(), ema.state()["weight"].clone()
    assert not torch.equal(weights, averages)
    with pytest.raises(KeyError), ema.applied():
        assert torch.equal(module.weight, averages)
        raise KeyError
    assert torch.equal(module.weight, weights)
    assert torch.equal(ema.state()["weight"], averages)


def test_copy_to_gives_another_module_the_averages_and_keeps_them() -> None:
    module, other = Counter(), Counter()
    ema = EMA(module, 0.5)
    module.become(2.0)
    ema.update()
    ema.copy_to(other)
    assert torch.equal(other.weight, ema.state()["weight"])
    assert not torch.equal(other.weight, module.weight)
    module.become(5.0)
    ema.update()
    assert not torch.equal(other.weight, ema.state()["weight"])


def test_a_stopped_and_reloaded_average_goes_on_to_the_bit() -> None:
    torch.manual_seed(0)
    values = torch.randn(12).tolist()
    whole_module, part_module = Counter(), Counter()
    whole, part = EMA(whole_module, 0.99), EMA(part_module, 0.99)
    for i, value in enumerate(values):
        whole_module.become(value)
        whole.update()
        if i == 5:
            saved, part_module = {k: v.clone() for k, v in part.state().items()}, Counter()
            num_updates, part = part.num_updates, EMA(part_module, 0.99)
            part.load(saved, num_updates)
        part_module.become(value)
        part.update()
    assert torch.equal(whole.state()["weight"], part.state()["weight"])


def test_an_average_of_another_network_is_refused_by_name() -> None:
    ema = EMA(Counter(), 0.9)
    state = ema.state()
    with pytest.raises(DataError, match="codes"):
        ema.load({**state, "codes": torch.zeros(3)}, 1)
    with pytest.raises(DataError, match="weight"):
        ema.load({name: tensor for name, tensor in state.items() if name != "weight"}, 1)
    with pytest.raises(DataError, match="extra"):
        ema.load({**state, "extra": torch.zeros(1)}, 1)
