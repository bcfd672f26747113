"""A network sharded over the processes: each holds its rows of parameters, gradients, AdamW moments and EMA.

torch's `fully_shard` (the scheme of Rajbhandari et al. 2020, ZeRO, stage 3) gathers a block's weights when they are
needed and frees them afterwards; gradients are reduce-scattered. Optimizer, EMA and checkpoints see `local`, a module
with the same names whose plain tensors share memory with this process's rows of the float32 weights: neither they nor
the network's own code depend on the sharding.
"""

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from ..distributed import processes, tensor_file
from ..distributed.sharded_tensors import ShardedTensors, local_rows
from ..errors import ConfigError
from ..system.precision import Policy
from .ema import EMA


class Sharded:
    """A network sharded over the processes. local: the module of this process's rows, for optimizer and EMA.

    The network may be on the CPU: each part moves to the device as it is sharded, so that a GPU never holds all of it.
    Every process has to have drawn the same weights. Raises ConfigError for fp16: each process would look for a loss
    scale of its own.
    """

    def __init__(self, network: nn.Module, policy: Policy) -> None:
        if policy.needs_scaler:
            raise ConfigError(
                "`train.shard` does not go with `machine.precision=fp16`", "use `machine.precision=bf16`, or fp32"
            )
        self.network, self._world = network, processes.world()
        self.local = _copy_without_tensors(network)
        # Inputs are not cast: times would lose digits. Autocast chooses the dtype of each operation, as without shards.
        compute = None if policy.dtype == torch.float32 else policy.dtype
        mixed = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32, cast_forward_inputs=False)
        mesh = processes.device_mesh(policy.device)
        for part in [*_repeated(network), network]:
            fully_shard(part, mesh=mesh, mp_policy=mixed)
        register_fsdp_forward_method(network, "prepare")
        self._sharded = dict(network.named_parameters())
        for name, parameter in self._sharded.items():
            _set_tensor(self.local, name, nn.Parameter(_to_local(parameter), requires_grad=parameter.requires_grad))
        self._buffers = dict(network.named_buffers())
        for name, buffer in self._buffers.items():
            _set_tensor(self.local, name, buffer)
        self._local = dict(self.local.named_parameters())

    def sync_next_backward(self) -> None:
        """Do nothing: `fully_shard` sums after every pass, so that no process ever holds the gradients of all rows."""

    def wait(self) -> None:
        """Move the gradients, means over the processes as `fully_shard` divides, to the local parameters."""
        for name, parameter in self._sharded.items():
            self._local[name].grad = None if parameter.grad is None else _to_local(parameter.grad)
            parameter.grad = None

    @contextmanager
    def ema_weights(self, ema: EMA) -> Iterator[None]:
        """Let the network compute with the EMA inside the block."""
        self.reshard()
        with ema.applied():
            yield
            self.reshard()

    def reshard(self) -> None:
        """Free gathered weights, so that the next pass gathers them again: call it after changing local weights."""
        for module in self.network.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def tensors(self, group: Mapping[str, Tensor]) -> ShardedTensors:
        """Return a checkpoint's group of local tensors ready to be written in full."""
        return ShardedTensors(group, {name: shape for name in group if (shape := self._full_shape(name, group[name]))})

    def read(self, path: Path) -> dict[str, Tensor]:
        """Read this process's rows of the tensors in a checkpoint's file."""

        def rows(name: str, shape: tuple[int, ...]) -> slice | None:
            return None if name in self._buffers or not shape else local_rows(shape[0], self._world)

        return tensor_file.read_rows(path, rows)

    def _full_shape(self, name: str, tensor: Tensor) -> tuple[int, ...] | None:
        """Return the full shape of a local PARAMETER or ROLE.PARAMETER.MOMENT; None for what is not sharded."""
        if name in self._buffers or not tensor.ndim:
            return None
        parameter = name if name in self._sharded else name.split(".", 1)[1].rpartition(".")[0]
        return tuple(self._sharded[parameter].shape)


def _repeated(network: nn.Module) -> Iterator[nn.Module]:
    """Yield the blocks of which a network has many in a row: sharding each alone bounds what is gathered at a time."""
    for module in network.modules():
        if isinstance(module, nn.ModuleList):
            yield from module


def _copy_without_tensors(network: nn.Module) -> nn.Module:
    """Copy a network's modules and names, with its tensors on the meta device."""
    tensors = [*network.parameters(), *network.buffers()]
    return copy.deepcopy(network, {id(tensor): tensor.detach().to("meta") for tensor in tensors})


def _set_tensor(root: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = root.get_submodule(path)
    if leaf in module._buffers:
        module._buffers[leaf] = tensor
    else:
        assert isinstance(tensor, nn.Parameter) and leaf in module._parameters, f"{name} is not the network's"
        module._parameters[leaf] = tensor


def _to_local(tensor: Tensor) -> Tensor:
    """Return a DTensor's local rows: the same memory."""
    assert isinstance(tensor, DTensor), "not a DTensor"
    return tensor.to_local().detach()
