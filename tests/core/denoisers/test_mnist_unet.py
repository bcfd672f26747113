"""The U-Net of digits against the course's drawing, written down a second time, and its published sizes."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ldm.core.denoisers.families import FAMILIES
from ldm.core.denoisers.mnist_unet import MnistUNet
from ldm.core.denoisers.mnist_unet_config import MnistUNetConfig
from ldm.core.denoisers.registry import build, outline
from ldm.core.diffusion.conditions import Cond, index
from ldm.core.errors import ConfigError
from ldm.core.settings.families import config_of_preset

SMALL = MnistUNetConfig(latent_channels=1, latent_size=12, width=8, num_classes=3)


def awake(config: MnistUNetConfig = SMALL) -> MnistUNet:
    """One with random weights and statistics throughout."""
    torch.manual_seed(0)
    model = build(config)
    assert isinstance(model, MnistUNet)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point():
                tensor.add_(0.2 * torch.randn_like(tensor))
    return model.eval()


def inputs(batch: int = 4, config: MnistUNetConfig = SMALL) -> tuple[Tensor, Tensor, Cond]:
    torch.manual_seed(1)
    cond = {"labels": torch.arange(batch) % (config.num_classes + 1)} if config.num_classes else {}
    return torch.randn(batch, config.latent_channels, *config.size), torch.rand(batch), cond


@pytest.mark.parametrize(
    ("preset", "given", "expected"),
    [
        ("unet-mnist", {"timed": False}, 1_975_361),
        ("unet-mnist", {}, 1_996_417),
        ("unet-mnist", {"num_classes": 10}, 2_019_201),
        ("unet-mnist-128", {"timed": False}, 7_891_073),
        ("unet-mnist-128", {}, 7_974_145),
        ("unet-mnist-128", {"num_classes": 10}, 8_060_673),
    ],
)
def test_sizes_are_those_of_the_course(preset: str, given: dict[str, Any], expected: int) -> None:
    config = config_of_preset(preset, FAMILIES, latent_channels=1, latent_size=28, **given)
    assert isinstance(config, MnistUNetConfig)
    assert sum(parameter.numel() for parameter in outline(config).parameters()) == expected


def drawn(model: MnistUNet, x: Tensor, t: Tensor, one_hot: Tensor | None) -> Tensor:
    """Compute the course's drawing from the network's weights, with nothing but torch's functions."""
    w = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}

    def conv(name: str, x: Tensor, how: Any, **options: Any) -> Tensor:
        y = how(x, w[f"{name}.conv.weight"], w[f"{name}.conv.bias"], **options)
        stats = w[f"{name}.norm.running_mean"], w[f"{name}.norm.running_var"]
        return F.gelu(F.batch_norm(y, *stats, w[f"{name}.norm.weight"], w[f"{name}.norm.bias"]))

    def block(i: int, x: Tensor, first: int = 0) -> Tensor:
        for j in (first, first + 1):
            x = conv(f"blocks.{i}.{j}", x, F.conv2d, padding=1)
        return x

    def vector(name: str, x: Tensor) -> Tensor:
        hidden = F.gelu(F.linear(x, w[f"{name}.up.weight"], w[f"{name}.up.bias"]))
        return F.linear(hidden, w[f"{name}.down.weight"], w[f"{name}.down.bias"])[..., None, None]

    def modulate(i: int, x: Tensor) -> Tensor:
        time = vector(f"times.{i}", t[:, None])
        return time * x if one_hot is None else vector(f"classes.{i}", one_hot) * x + time

    x1 = block(0, x)
    x2 = block(1, conv("blocks.1.0", x1, F.conv2d, padding=1, stride=2), 1)
    x3 = block(2, conv("blocks.2.0", x2, F.conv2d, padding=1, stride=2), 1)
    z = F.gelu(F.avg_pool2d(x3, x3.shape[-1]))
    u = modulate(0, conv("unfold", z, F.conv_transpose2d, stride=x3.shape[-1]))
    up = conv("blocks.3.0", torch.cat([u, x3], 1), F.conv_transpose2d, stride=2, padding=1)
    up = modulate(1, block(3, up, 1))
    up = block(4, conv("blocks.4.0", torch.cat([up, x2], 1), F.conv_transpose2d, stride=2, padding=1), 1)
    return F.conv2d(block(5, torch.cat([up, x1], 1)), w["out.weight"], w["out.bias"], padding=1)


@pytest.mark.parametrize("classes", [3, 0])
def test_output_is_the_drawing_with_no_class_as_the_zero_vector(classes: int) -> None:
    model = awake(SMALL.replace(num_classes=classes))
    x, t, cond = inputs(config=model.config)
    one_hot = torch.eye(4, 3)[cond["labels"]] if classes else None
    with torch.no_grad():
        ours, theirs = model(x, t, cond), drawn(model, x, t, one_hot)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_an_output_depends_neither_on_the_batch_nor_on_when_the_condition_is_prepared() -> None:
    model = awake()
    x, t, cond = inputs()
    with torch.no_grad():
        together = model(x, t, model.prepare(cond))
        alone = torch.cat([model(x[i : i + 1], t[i : i + 1], index(cond, slice(i, i + 1))) for i in range(4)])
        tapped, hidden = model(x, t, cond, taps=(1, 5))
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(tapped, together) and {i: maps.shape[1:] for i, maps in hidden.items()} == {
        1: (8, 6, 6),
        5: (8, 12, 12),
    }


def test_training_flops_are_what_torch_counts() -> None:
    model = build(SMALL.replace(width=32))
    with FlopCounterMode(display=False) as counted:
        model(*inputs(1)).sum().backward()
    assert model.training_flops == pytest.approx(counted.get_total_flops(), rel=0.02)


def test_checkpointing_gives_the_same_gradients_and_statistics() -> None:
    states = []
    for checkpointing in (False, True):
        model = awake().train()
        model.checkpointing = checkpointing
        model(*inputs()).square().mean().backward()
        states.append([p.grad for p in model.parameters()] + list(model.buffers()))
    for plain, recomputed in zip(*states, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-6)


def test_on_pure_noise_the_best_single_step_is_the_mean_image() -> None:
    """Whatever the noise: x0 does not depend on it, and the minimiser of the squared error is E[x0]."""
    torch.manual_seed(0)
    model = MnistUNet(SMALL.replace(num_classes=0, timed=False))
    images = torch.stack([torch.zeros(1, 12, 12), torch.ones(1, 12, 12), 2 * torch.eye(12)[None]])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.01 ** (1 / 150))
    for _ in range(150):
        x0 = images[torch.randint(0, 3, (32,))]
        loss = (model(torch.randn(32, 1, 12, 12), torch.ones(32), {}) - x0).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        estimate = model.eval()(torch.randn(64, 1, 12, 12), torch.ones(64), {})
    apart = nn.functional.mse_loss(estimate, images.mean(0).expand_as(estimate))
    assert apart < 0.05 * images.var()


@pytest.mark.parametrize(
    ("fields", "word"),
    [({"latent_size": 30}, "32 x 32"), ({"latent_size": 2}, "4 x 4"), ({"timed": False}, "takes no classes")],
)
def test_what_the_network_cannot_be_is_refused(fields: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SMALL.replace(**fields)
    assert word in f"{caught.value.message} {caught.value.remedy}"
