"""A network in rows over the processes: parameters, gradients, moments and EMA, each holding its part.

torch's `fully_shard` (the scheme of Rajbhandari et al. 2020, ZeRO, stage 3) gathers a block's weights when its turn
comes and lets go of them after; gradients come back as the sum of each process's rows. What optimizer, EMA
and checkpoints see is a module of the same names whose tensors are this process's rows of the float32 weights: plain
tensors, so that they know nothing of it. The network's own code does not either.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from ..distributed import processes, tensor_file
from ..distributed.gathering import Scattered, own_rows
from ..errors import ConfigError
from ..system.precision import Policy
from .ema import EMA
from .optimizer import OptimConfig


class Sharded:
    """A network cut over the processes. rows: the module of what this process holds, to be after_step and averaged.

    The network may be on the CPU: each part moves to the device as it is cut, which therefore never holds all of it.
    Weights are those that each process has drawn: the same everywhere. Raises ConfigError for fp16, whose scale each
    process would look for on its own.
    """

    def __init__(self, network: nn.Module, policy: Policy) -> None:
        if policy.needs_scaler:
            raise ConfigError("--shard does not go with --precision fp16", "use --precision bf16 or fp32")
        self.network, self._world = network, processes.world()
        self.rows = _without_values(network)
        # Inputs stay as they are: times would lose digits. Autocast chooses what runs in which format, as ever.
        compute = None if policy.dtype == torch.float32 else policy.dtype
        mixed = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = processes.mesh(policy.device)
        for part in [*_repeated(network), network]:
            fully_shard(part, mesh=mesh, mp_policy=mixed)
        self._cut = dict(network.named_parameters())
        for name, parameter in self._cut.items():
            _put(self.rows, name, nn.Parameter(_local(parameter), requires_grad=parameter.requires_grad))
        self._buffers = dict(network.named_buffers())
        for name, buffer in self._buffers.items():
            _put(self.rows, name, buffer)
        self._own = dict(self.rows.named_parameters())

    def expect(self) -> None:
        """Nothing: gradients are summed after every pass, so that no process ever holds those of all rows."""

    def finish(self) -> None:
        """Hand the gradients over to the rows: the means over the processes, for `fully_shard` divides."""
        for name, parameter in self._cut.items():
            self._own[name].grad = None if parameter.grad is None else _local(parameter.grad)
            parameter.grad = None

    def clip(self, optimizer: torch.optim.Optimizer, config: OptimConfig) -> Tensor:
        """Scale the gradients down to norm `config.clip` where they exceed it. Returns the norm before, of all rows."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        own = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        norm = torch.linalg.vector_norm(processes.gather_rows(own.reshape(1)))
        if config.clip > 0:
            torch._foreach_mul_(gradients, torch.clamp(config.clip / (norm + 1e-6), max=1.0))
        return norm

    @contextmanager
    def averaged(self, ema: EMA) -> Iterator[None]:
        """Let the network compute with the EMA inside the block."""
        self.forget()
        with ema.applied():
            yield
            self.forget()

    def forget(self) -> None:
        """Let go of whole weights, which the next pass gathers again: call it whenever rows have changed otherwise."""
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def scattered(self, tensors: Mapping[str, Tensor]) -> Scattered:
        """Return rows by name, as of a checkpoint's group, ready to be written whole."""
        return Scattered(
            tensors, {name: shape for name in tensors if (shape := self._whole_shape(name, tensors[name]))}
        )

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read the own rows of the tensors in a checkpoint's file."""

        def rows(name: str, shape: tuple[int, ...]) -> slice | None:
            return None if name in self._buffers or not shape else own_rows(shape[0], self._world)

        return tensor_file.read_rows(path, rows)

    def _whole_shape(self, name: str, tensor: Tensor) -> tuple[int, ...] | None:
        """Return the shape of the parameter that a tensor is rows of, or of the moments of; None for what is not cut.

        name: of the parameter, or PLAYER.PARAMETER.MOMENT.
        """
        if name in self._buffers or not tensor.ndim:
            return None
        return tuple(self._cut[name if name in self._cut else name.split(".", 1)[1].rpartition(".")[0]].shape)


def _repeated(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the parts of which a network has many in a row: gathering each alone bounds what is whole at a time."""
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            yield from module


def _without_values(network: nn.Module) -> nn.Module:
    """Copy a network's modules and names, without memory for what they hold."""
    held = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor.detach().to("meta") for tensor in held})


def _put(root: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = root.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        assert isinstance(tensor, nn.Parameter) and leaf in module._parameters, f"{name} is not the network's"
        module._parameters[leaf] = tensor


def _local(tensor: Tensor) -> Tensor:
    """Return the own rows of a tensor: the same memory."""
    assert isinstance(tensor, DTensor), "a tensor that is not cut"
    return tensor.to_local().detach()
