"""Our DiT as diffusers': the same output, the padded table, and the way back."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ldm.core.denoisers.dit import DiT
from ldm.core.denoisers.dit_config import DiTConfig
from ldm.core.denoisers.registry import build
from ldm.core.errors import ConfigError, DataError
from ldm.core.interchange.mapping import Given, turned
from ldm.core.interchange.transformer import NULL_CLASS, from_diffusers, to_diffusers

SMALL = DiTConfig(latent_channels=4, latent_size=8, patch_size=2, width=32, depth=2, heads=2, num_classes=5)
STEPS = torch.tensor([0, 1, 17, 250, 500, 700, 998, 999])
HERE = Path("folder/weights.safetensors")


def awake(config: DiTConfig = SMALL) -> DiT:
    """A DiT with random weights throughout, so that no gate hides a block."""
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def inputs(config: DiTConfig = SMALL) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(len(STEPS)) % (config.num_classes + (config.label_dropout > 0))
    return torch.randn(len(STEPS), config.latent_channels, *config.size, generator=generator), labels


def theirs_of(labels: torch.Tensor, config: DiTConfig = SMALL) -> torch.Tensor:
    return torch.where(labels == config.num_classes, NULL_CLASS, labels)


@torch.no_grad()
def outputs(model: DiT, theirs: Any, ahead: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x, labels = inputs(model.config)
    ours = model(x, (STEPS + ahead) / model.config.time_scale, {"labels": labels})
    return ours, theirs(x, STEPS, theirs_of(labels, model.config)).sample


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"learn_sigma": True, "patch_size": 4, "latent_channels": 3},
        {"mlp_ratio": 2.5, "label_dropout": 0.0},
        {"time_scale": 500.0},
    ],
)
def test_the_output_is_the_same_step_by_step_and_class_by_class(changes: dict[str, Any]) -> None:
    model = awake(SMALL.replace(**changes))
    ours, theirs = outputs(model, to_diffusers(model))
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_without_the_shift_of_a_step_the_output_differs() -> None:
    model = awake()
    ours, theirs = outputs(model, to_diffusers(model, ahead=0))
    assert (ours - theirs).abs().max() > 1e-3
    ours, theirs = outputs(model, to_diffusers(model, ahead=0), ahead=0)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def test_turning_by_an_angle_is_undone_by_turning_back() -> None:
    weight, table = torch.randn(3, 8), torch.rand(4)
    angles = torch.rand(5, 1) * table
    before = torch.cat([(angles + table).cos(), (angles + table).sin()], 1) @ weight.T
    after = torch.cat([angles.cos(), angles.sin()], 1) @ turned(weight, table, 1).T
    torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(turned(turned(weight, table, 1), table, -1), weight)


def test_the_null_class_is_1000_and_stands_for_all_unused_ones() -> None:
    model = awake()
    for block in to_diffusers(model).transformer_blocks:  # type: ignore[union-attr]
        table = block.norm1.emb.class_embedder.embedding_table.weight  # type: ignore[union-attr]
        assert len(table) == 1001
        assert torch.equal(table[:5], model.label.table.weight[:5])
        assert torch.equal(table[5:], model.label.table.weight[5].expand(996, -1))


def test_without_a_null_class_guidance_gives_nan_and_classes_do_not() -> None:
    model = awake(SMALL.replace(label_dropout=0.0))
    network, (x, labels) = to_diffusers(model), inputs(model.config)
    with torch.no_grad():
        assert network(x, STEPS, torch.full_like(labels, NULL_CLASS)).sample.isnan().all()
        assert network(x, STEPS, labels).sample.isfinite().all()


@pytest.mark.parametrize("changes", [{}, {"learn_sigma": True}, {"label_dropout": 0.0}, {"num_classes": 1000}])
def test_there_and_back_is_the_same_network(changes: dict[str, Any]) -> None:
    model = awake(SMALL.replace(**changes))
    theirs = to_diffusers(model)
    back = from_diffusers(Given(dict(theirs.config), theirs.state_dict(), HERE))  # type: ignore[arg-type]
    assert back.config.replace(latent_size=8) == model.config
    assert back.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(back.state_dict()[name], tensor, rtol=1e-6, atol=1e-6, msg=name)


def test_the_steps_that_a_network_was_given_are_counted_as_it_was_given_them() -> None:
    model = awake(SMALL.replace(time_scale=500.0))
    theirs: Any = to_diffusers(model)
    back = from_diffusers(Given(dict(theirs.config), theirs.state_dict(), HERE, time_scale=500.0))
    (x, labels), t = inputs(), (STEPS + 1) / 500
    cond = {"labels": labels}
    with torch.no_grad():
        torch.testing.assert_close(back(x, t, cond), model(x, t, cond), rtol=1e-5, atol=1e-5)


def test_a_class_that_only_has_a_name_counts() -> None:
    theirs = to_diffusers(awake())
    back = from_diffusers(Given(dict(theirs.config), theirs.state_dict(), HERE, num_named=7))  # type: ignore[arg-type]
    assert back.config.num_classes == 7 and back.config.has_null


@pytest.mark.parametrize(
    "changes",
    [
        {"qk_norm": True},
        {"rope": True},
        {"swiglu": True},
        {"rmsnorm": True},
        {"latent_size": (8, 4)},
        {"mlp_ratio": 5.0},
        {"num_classes": 1001},
        {"frequencies": 128},
        {"frequency_shift": 0},
    ],
)
def test_what_it_cannot_express_is_refused_by_name(changes: dict[str, Any]) -> None:
    with torch.device("meta"):
        model = build(SMALL.replace(**changes))
    with pytest.raises(ConfigError, match=next(iter(changes))):
        to_diffusers(model)


def changed(settings: dict[str, Any], tensors: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    theirs = to_diffusers(awake())
    state = {name: tensor.clone() for name, tensor in theirs.state_dict().items()} | tensors
    return dict(theirs.config) | settings, {n: t for n, t in state.items() if t is not None}  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "tensors", "named"),
    [
        ({"norm_type": "ada_norm_single"}, {}, "norm_type"),
        ({"activation_fn": "geglu"}, {}, "activation_fn"),
        ({"num_embeds_ada_norm": 10}, {}, "num_embeds_ada_norm"),
        ({"norm_eps": 1e-3}, {}, "norm_eps"),
        ({"num_layers": 3}, {}, "transformer_blocks.2"),
        ({"num_layers": "2"}, {}, "num_layers"),
        ({"num_layers": 2**40}, {}, "transformer_blocks.2"),
        ({"patch_size": 3}, {}, "patches of 3"),
        ({"in_channels": 8}, {}, "weights.safetensors"),
        ({}, {"proj_out_1.bias": None}, "proj_out_1.bias"),
        ({}, {"proj_out_2.bias": torch.zeros(3)}, "final.bias"),
        ({}, {"transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias": torch.ones(32)}, "block 1"),
    ],
)
def test_a_network_that_is_no_dit_is_refused_by_name(
    settings: dict[str, Any], tensors: dict[str, Any], named: str
) -> None:
    with pytest.raises(DataError, match=named):
        from_diffusers(Given(*changed(settings, tensors), HERE))
