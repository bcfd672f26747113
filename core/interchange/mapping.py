"""Tables of names between our networks and those of others, applied in both directions."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..denoisers.config import DenoiserConfig
from ..denoisers.network import DenoiserNetwork
from ..errors import ConfigError, DataError
from ..runs.weights import load_into

Config = TypeVar("Config", bound=DenoiserConfig)
Network = TypeVar("Network", bound=DenoiserNetwork)
Codec = TypeVar("Codec", bound=nn.Module)
Names = Mapping[str, tuple[str, ...]]  # our linear layers, each with theirs, whose rows one after another are ours
PARTS = ("weight", "bias")
ONLY_HERE = "only `ldm sample` draws from this denoiser"  # a remedy


def refuse_scalars_and_rectangles(their_class: str, config: Any, *others: tuple[str, Any, str]) -> None:
    """Raise ConfigError for a transformer of texts that takes scalars, or latents that are not square.

    their_class: of diffusers, which has neither. others: settings that it does not have either, each with its value,
    false where it is as theirs, and what their class does instead.
    """
    for name, value, instead in (
        ("scalars", config.scalars, "takes time and text"),
        ("latent_size", config.size[0] != config.size[1] and config.size, "names a square size"),
        *others,
    ):
        if value:
            what = f"{name} {value} of the denoiser cannot be expressed in diffusers' {their_class}, which {instead}"
            raise ConfigError(what, ONLY_HERE)


def require_settings(settings: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raise ConfigError for a setting of theirs that is there, and another than a network of ours has."""
    for name, value in expected.items():
        if settings.get(name, value) != value:
            raise ConfigError(f"{name} is {settings[name]!r}, not {value!r}")


def shape_of(config: Any) -> str:
    """Say the shape of a transformer in a few words."""
    return f"width {config.width}, depth {config.depth}, heads {config.heads}, patch {config.patch_size}"


@dataclass(frozen=True)
class Weights:
    """Tensors of others by name. path, remedy: of errors."""

    tensors: Mapping[str, Tensor]
    path: Path
    remedy: str

    def get(self, name: str, dims: int | None = None) -> Tensor:
        """Return a tensor. Raises DataError where it is missing, or has another number of dimensions."""
        if name not in self.tensors:
            raise DataError(f"{self.path} lacks {name}", self.remedy)
        tensor = self.tensors[name]
        if dims not in (None, tensor.dim()):
            raise DataError(f"{self.path}: {name} has shape {tuple(tensor.shape)}", self.remedy)
        return tensor

    def ours(self, names: Names, wanted: Collection[str] | None = None) -> dict[str, Tensor]:
        """Return our tensors, with `wanted` those of them alone. Raises DataError naming one that they lack."""
        return {
            f"{mine}.{part}": torch.cat([self.get(f"{name}.{part}") for name in theirs])
            for mine, theirs in names.items()
            for part in PARTS
            if wanted is None or f"{mine}.{part}" in wanted
        }


def own_tensors(model: DenoiserNetwork, ahead: int) -> dict[str, Tensor]:
    """Return the tensors of a network of ours, on the CPU, the first map of the times turned to take steps."""
    own, time = (
        {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()},
        model.get_submodule("time"),
    )
    return own | {"time.up.weight": turned(own["time.up.weight"], time.get_buffer("table"), ahead)}


def network_of_theirs(name: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> nn.Module:
    """Return the network of a class of diffusers with these weights, in evaluation mode."""
    import diffusers  # here, since it takes seconds to import

    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, name)(**settings)
    network.load_state_dict(tensors, assign=True)
    return network.eval()


def to_theirs(own: Mapping[str, Tensor], names: Names) -> dict[str, Tensor]:
    """Return their tensors, copies of ours."""
    return {
        f"{name}.{part}": piece.clone()
        for mine, theirs in names.items()
        for part in PARTS
        if f"{mine}.{part}" in own
        for name, piece in zip(theirs, own[f"{mine}.{part}"].chunk(len(theirs)), strict=True)
    }


def read_codec(
    build: Callable[[], Codec],
    tensors_of: Callable[[Codec, Weights], dict[str, Tensor]],
    tensors: Mapping[str, Tensor],
    path: Path,
    remedy: str,
) -> Codec:
    """Return our autoencoder with the tensors, of our names, that are made of theirs.

    path, remedy: of errors. Raises DataError where `build` raises for settings that ours cannot have, and where a
    tensor is missing.
    """
    try:
        codec = build().eval()
    except ConfigError as error:
        raise DataError(f"{path}: {error.message}", remedy) from None
    own, given = codec.state_dict(), tensors_of(codec, Weights(tensors, path, remedy))
    codec.load_state_dict({name: tensor.reshape(own[name].shape) for name, tensor in given.items()})
    return codec


@dataclass(frozen=True)
class Given:
    """A denoiser of others: its config and weights, and what the rest of its pipeline says of it.

    path: of the weights, named in errors. num_named: how many classes have names. ahead, time_scale: of the steps that
    the network was given, as `scheduler.Process` has them. texts: the fields of our config that follow from a
    pipeline's text encoders.
    """

    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    path: Path
    num_named: int = 0
    ahead: int = 1
    time_scale: float = 1000.0
    texts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """How the networks of one class are read. what: they are, in words. remedy: of errors."""

    what: str
    remedy: str

    def network(
        self,
        given: Given,
        config_of: Callable[[Weights], Config],
        build: Callable[[Config], Network],
        tensors_of: Callable[[Network, Weights], dict[str, Tensor]],
    ) -> Network:
        """Return our network of the config and tensors, of our names, that are made of theirs.

        Raises DataError where `config_of` raises for settings that ours cannot have, and where tensors do not fit.
        """
        weights = Weights(given.tensors, given.path, self.remedy)
        try:
            config = config_of(weights)
            for name, value in given.texts.items():
                if getattr(config, name) not in (0, value):
                    raise ConfigError(f"{name} is {getattr(config, name)}, that of the text encoders {value}")
            config = config.replace(**given.texts)
        except (ConfigError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            message = f"{given.path.parent} does not describe {self.what} that can be read here: {error}"
            raise DataError(message, self.remedy) from None
        return self.filled(config, build, lambda model: tensors_of(model, weights), given.path, given.ahead)

    def filled(
        self,
        config: Config,
        build: Callable[[Config], Network],
        tensors_of: Callable[[Network], dict[str, Tensor]],
        path: Path,
        ahead: int,
    ) -> Network:
        """Return a new network with tensors of our names, the first map of the times, which were steps, turned."""
        with torch.device("meta"):  # where nothing is drawn; the tensors take the parameters' places
            model = build(config)
        own, time = tensors_of(model), model.get_submodule("time")
        own["time.up.weight"] = turned(own["time.up.weight"], time.get_buffer("table"), -ahead)
        load_into(model, own, path, self.remedy, assign=True)
        return model.eval()


def turned(weight: Tensor, table: Tensor, by: int) -> Tensor:
    """Return the map of [cos a, sin a] that equals `weight` (D, 2F) on [cos (a + by f), sin (a + by f)].

    table: the frequencies f (F,).
    """
    cosine, sine = (by * table.double()).cos(), (by * table.double()).sin()
    of_cosine, of_sine = weight.double().chunk(2, dim=1)
    both = torch.cat([of_cosine * cosine + of_sine * sine, of_sine * cosine - of_cosine * sine], dim=1)
    return both.to(weight.dtype)
