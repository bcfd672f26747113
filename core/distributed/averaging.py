"""The mean of a network's gradients over several processes, computed while the backward pass still runs.

Hooks on the parameters, not DistributedDataParallel: that wants every forward pass to go through a wrapper, which
would be in the way of losses that call a network's parts, of two networks that train in turns, and of names in
checkpoints. As in DDP, gradients are all-reduced in buckets, the last layers' first, each as soon as it is full, and
only in the last backward pass of a step that accumulates several.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from . import processes

BUCKET_BYTES = 25 << 20


class GradientMean:
    """Replaces one network's gradients by their mean over all processes.

    Call `sync_next_backward` before a step's last backward pass and `wait` after it. A parameter without a gradient
    stays without. With one process nothing happens.
    """

    def __init__(self, module: nn.Module, bucket_bytes: int = BUCKET_BYTES) -> None:
        # Backward reaches the last layers first, so they fill the first buckets.
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        self._buckets = _buckets(parameters[::-1], bucket_bytes)
        self._bucket_of: dict[Tensor, int] = {p: index for index, bucket in enumerate(self._buckets) for p in bucket}

        # How a step stands: gradients still missing in each bucket, and the buckets on their way.
        self._num_missing: list[int] | None = None  # gradients of each bucket still to come; None: no sync wanted
        self._sent: list[tuple[list[Tensor], Tensor, Callable[[], object]]] = []
        self._world_size = processes.world().size
        if self._world_size > 1:
            for parameter in parameters:
                parameter.register_post_accumulate_grad_hook(self._on_gradient)

    def sync_next_backward(self) -> None:
        """All-reduce gradients as the next backward pass computes them."""
        self._num_missing = [len(bucket) for bucket in self._buckets]

    def wait(self) -> None:
        """All-reduce what has not been sent, and write the means to the gradients."""
        assert self._num_missing is not None, "wait without sync_next_backward"
        self._num_missing = None
        if self._world_size == 1:
            return
        # What is left holds parameters without a gradient; zeros stand for it, so that all processes send alike.
        self._send_up_to(len(self._buckets))
        for gradients, flat, wait in self._sent:
            wait()
            # Sum to mean in the flat buffer, then back into each gradient's own shape.
            flat /= self._world_size
            pieces = flat.split([gradient.numel() for gradient in gradients])
            for gradient, piece in zip(gradients, pieces, strict=True):
                gradient.copy_(piece.view(gradient.shape))
        self._sent.clear()

    def _on_gradient(self, parameter: Tensor) -> None:
        if self._num_missing is None:  # an earlier pass of this step, or another network's backward
            return
        self._num_missing[self._bucket_of[parameter]] -= 1
        # Send the full buckets at the front; one that fills out of turn waits, for an order all processes share.
        num_full = next((index for index, missing in enumerate(self._num_missing) if missing), len(self._buckets))
        self._send_up_to(num_full)

    def _send_up_to(self, stop: int) -> None:
        """Send the buckets before `stop` that have not been sent: in the same order in every process."""
        for bucket in self._buckets[len(self._sent) : stop]:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in bucket]
            flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
            self._sent.append((gradients, flat, processes.start_all_reduce(flat)))


def _buckets(parameters: list[nn.Parameter], bucket_bytes: int) -> list[list[nn.Parameter]]:
    """Cut a list of parameters into buckets of at most `bucket_bytes`, or of one larger parameter."""
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
