"""The classifier of noisy latents: it learns, its gradient points to the class, and it survives its folder."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ldm.core.denoisers.noisy_classifier import NoisyClassifier, load, logits, save
from ldm.core.denoisers.noisy_config import NoisyClassifierConfig
from ldm.core.diffusion.schedules import schedule
from ldm.core.errors import ConfigError, DataError

CONFIG = NoisyClassifierConfig(latent_channels=2, latent_size=4, num_classes=2, width=32, depth=2, heads=2)


def noisy(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Two classes whose means differ in sign, with more noise the later the time."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (count,), generator=g)
    t = torch.rand(count, generator=g)
    x0 = (2.0 * labels - 1).view(-1, 1, 1, 1).expand(-1, 2, 4, 4)
    return (1 - t).view(-1, 1, 1, 1) * x0 + 3 * t.view(-1, 1, 1, 1) * torch.randn(x0.shape, generator=g), t, labels


@pytest.fixture(scope="module")
def trained() -> NoisyClassifier:
    torch.manual_seed(0)
    network = NoisyClassifier(CONFIG)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(60):
        x, t, labels = noisy(64, step)
        loss = torch.nn.functional.cross_entropy(network(x, t), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return network.eval()


def test_it_tells_classes_apart_and_is_surer_where_there_is_less_noise(trained: NoisyClassifier) -> None:
    x, t, labels = noisy(1000, 10_000)
    with torch.no_grad():
        p = trained(x, t).softmax(1).gather(1, labels[:, None]).squeeze(1)
    assert float((p > 0.5).float().mean()) > 0.85
    assert float(p[t < 0.3].mean()) > float(p[t > 0.8].mean()) + 0.1


def test_its_gradient_points_to_the_class(trained: NoisyClassifier) -> None:
    x = torch.zeros(2, 2, 4, 4, requires_grad=True)
    logits = trained(x, torch.tensor([0.5, 0.5])).log_softmax(1)
    (gradient,) = torch.autograd.grad(logits[0, 1] + logits[1, 0], x)
    assert float(gradient[0].mean()) > 0 > float(gradient[1].mean())


def test_it_starts_indifferent() -> None:
    torch.manual_seed(0)
    logits = NoisyClassifier(CONFIG)(torch.randn(3, 2, 4, 4), torch.rand(3))
    assert not logits.any()


def test_its_folder_gives_it_back_and_damage_is_named(trained: NoisyClassifier, tmp_path: Path) -> None:
    save(trained, tmp_path)
    x, t, _ = noisy(4, 1)
    assert torch.equal(load(tmp_path)(x, t), trained(x, t))
    config = json.loads((tmp_path / "config.json").read_text())
    config["config"]["heads"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(DataError, match=r"config\.json is damaged"):
        load(tmp_path)


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(ConfigError, match="do not divide into patches"):
        NoisyClassifierConfig(latent_channels=2, latent_size=5, num_classes=2)


def test_guidance_starts_gently_where_hardly_any_signal_is_left(trained: NoisyClassifier) -> None:
    """x0 moves by sigma² / alpha times the gradient; with logits that fade as alpha, that stays of order one."""
    path = schedule("cosine")
    x = torch.randn(64, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for time in (1.0, 0.99, 0.5):
        t = torch.full((64,), time)
        (gradient,) = torch.autograd.grad(logits(trained, path, x, t).log_softmax(1)[:, 1].sum(), x)
        alpha, sigma = path.alpha_sigma(t[0])
        moved = (sigma**2 / alpha) * gradient.flatten(1).norm(dim=1)
        assert float(moved.mean()) < 10, time
