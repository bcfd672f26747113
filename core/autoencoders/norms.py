"""GroupNorm (Wu & He 2018) with a backward pass that is fast in bf16 on CPUs; RMSNorm over channels."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

_VECTOR = 16  # channels of a group, from which torch's own passes in bf16 are fast
_FEW_PIXELS = 1024  # below which torch goes group by group


class GroupNorm(nn.GroupNorm):
    """torch's, with the same results to the bit forwards.

    On CPUs, over channels-last bf16 with narrow groups, torch's backward pass takes two to seven times as long as in
    fp32, and its forward pass over few pixels three to five times. There, the input is converted to fp32, which loses
    nothing, since sums are in fp32 in any case. Second derivatives are not supported there.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.weight.requires_grad and not x.requires_grad and torch.is_grad_enabled():
            x = (
                x.detach().requires_grad_()
            )  # The backward pass of torch 2.13 crashes for a gradient of the weight alone.
        narrow = x.device.type == "cpu" and x.dtype == torch.bfloat16 and self.num_channels < _VECTOR * self.num_groups
        if not narrow or torch.compiler.is_compiling():
            return super().forward(x)
        out: Tensor = _ByFloat32.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return out


class ChannelRMSNorm(nn.Module):
    """RMSNorm (Zhang & Sennrich 2019) over the channels of (B, C, H, W), with weight and bias; statistics in fp32."""

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.float().square().mean(dim=1, keepdim=True) + self.eps)
        return (x * scale * self.weight[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _ByFloat32(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        x = x.contiguous(memory_format=_layout(x))
        few = x.shape[2] * x.shape[3] < _FEW_PIXELS
        out, mean, rstd = torch.native_group_norm(x.float() if few else x, weight, bias, *_sizes(x), groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return out.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        # The kernel reads the gradient as it reads x, whatever its strides.
        gradient = gradient.float().contiguous(memory_format=_layout(x))
        of_x, of_weight, of_bias = torch.ops.aten.native_group_norm_backward(
            gradient, x.float(), mean.float(), rstd.float(), weight, *_sizes(x), ctx.groups, wanted
        )
        return (None if of_x is None else of_x.to(x.dtype)), of_weight, of_bias, None, None


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return torch.channels_last if channels_last else torch.contiguous_format


def _sizes(x: Tensor) -> tuple[int, int, int]:
    """Return samples, channels and pixels of x (B, C, H, W)."""
    return x.shape[0], x.shape[1], x.shape[2] * x.shape[3]
