"""The mean of a network's gradients over several processes, while the backward pass still runs.

Hooks on the parameters, not DistributedDataParallel: that wants every forward pass to go through a wrapper, which
would be in the way of losses that call a network's parts, of two networks that train in turns, and of names in
checkpoints. As there, gradients travel in buckets, the last layers' first, each as soon as it is full, and only in the
last pass of a step that accumulates several.
"""

import torch
from torch import Tensor, nn

from . import processes

BUCKET_BYTES = 25 << 20


class GradientMean:
    """Makes the gradients of one network the mean over all processes: `expect` before the step's last backward pass,
    `finish` after it. A parameter without a gradient stays without. With one process it does nothing."""

    def __init__(self, module: nn.Module, bucket_bytes: int = BUCKET_BYTES) -> None:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._buckets = _buckets(parameters[::-1], bucket_bytes)
        self._place: dict[Tensor, int] = {p: number for number, bucket in enumerate(self._buckets) for p in bucket}
        self._missing: list[int] | None = None
        self._under_way: list[tuple[list[Tensor], Tensor, processes.Transfer]] = []
        self._size = processes.world().size
        if self._size > 1:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._arrived)

    def expect(self) -> None:
        """Send gradients as they come from now on."""
        self._missing = [len(bucket) for bucket in self._buckets]

    def finish(self) -> None:
        """Send what has not been sent, and put the means in place once they are there."""
        assert self._missing is not None, "finish without expect"
        self._missing = None
        if self._size == 1:
            return
        self._send(len(self._buckets))
        for gradients, flat, transfer in self._under_way:
            transfer.wait()
            flat /= self._size
            pieces = flat.split([gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))
        self._under_way.clear()

    def _arrived(self, parameter: Tensor) -> None:
        if self._missing is None:  # An earlier pass, or another network's turn.
            return
        self._missing[self._place[parameter]] -= 1
        full = next((n for n, missing in enumerate(self._missing) if missing), len(self._buckets))
        self._send(full)

    def _send(self, stop: int) -> None:
        """Send the buckets before `stop` that have not been sent: in one order, the same in every process."""
        for bucket in self._buckets[len(self._under_way) : stop]:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._under_way.append((gradients, flat, processes.start_sum(flat)))


def _buckets(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Cut a list of parameters where the bytes of a bucket are full."""
    buckets: list[list[nn.Parameter]] = []
    room = 0
    for parameter in parameters:
        size = parameter.numel() * parameter.element_size()
        if size > room:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(parameter)
        room -= size
    return buckets
