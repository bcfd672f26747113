"""Loss weights: one function of the log-SNR on the x0 error, and its conversion to the error of each prediction.

Salimans & Ho 2022, section 4, define the weightings on ‖x0 − x̂0‖². The same loss on a network's own output needs
the weight divided by how much larger that output's squared error is:
‖Δeps‖² = SNR ‖Δx0‖², ‖Δv‖² = (SNR + 1) ‖Δx0‖², ‖Δflow‖² = (√SNR + 1)² ‖Δx0‖².
All is computed on logarithms, where nothing overflows.
"""

import math

import torch
from torch import Tensor

from .names import PREDICTIONS, WEIGHTINGS, require

# The largest weight given. The x0 column of the table grows without bound as t → 0, the eps column of `uniform`
# as alpha → 0. This does not change the first of 1000 steps of DDPM's linear schedule (SNR 9999).
CAP = 1e4

# Beyond this the log-SNR is as good as infinite: exp(±200) is past every cap, and ∞ − ∞ is avoided.
_FAR = 200.0


def x0_weight(kind: str, log_snr: Tensor, gamma: float = 5.0, cap: float = CAP) -> Tensor:
    """Return the weight on the squared x0 error.

    `uniform` 1; `snr` SNR (DDPM's simple loss when predicting eps); `truncated-snr` max(SNR, 1); `snr+1` (the plain
    loss on v); `min-snr` min(SNR, gamma) (Hang et al. 2023); `flow` (√SNR + 1)² (the plain loss on the flow's
    velocity).
    log_snr: any shape, infinities included. The result has its shape and dtype, and lies in [0, cap].
    Raises ValueError for an unknown kind or a gamma that is not positive.
    """
    return loss_weight(kind, "x0", log_snr, gamma, cap)


def loss_weight(weighting: str, prediction: str, log_snr: Tensor, gamma: float = 5.0, cap: float = CAP) -> Tensor:
    """Return the weight on the squared error of this prediction that weighs its x0 error by `x0_weight`.

    Shapes and errors as in `x0_weight`. The cap applies to the result, so that the plain losses (`snr` with eps,
    `snr+1` with v, `flow` with flow) are exactly 1 at all times; where it binds, and only there, predictions differ.
    """
    log_snr = log_snr.clamp(-_FAR, _FAR)
    log_weight = _log_x0_weight(weighting, log_snr, gamma) - _log_error_ratio(prediction, log_snr)
    return log_weight.exp().clamp(max=cap)


def _log_x0_weight(kind: str, log_snr: Tensor, gamma: float) -> Tensor:
    require(kind, WEIGHTINGS, "weighting")
    if gamma <= 0:
        raise ValueError(f"gamma is {gamma:g}: min-snr needs a positive one, 5 in the paper")
    if kind == "uniform":
        return torch.zeros_like(log_snr)
    if kind == "snr":
        return log_snr
    if kind == "truncated-snr":
        return log_snr.clamp(min=0)
    if kind == "snr+1":
        return _log_snr_plus_one(log_snr)
    if kind == "min-snr":
        return log_snr.clamp(max=math.log(gamma))
    return 2 * _log_snr_plus_one(log_snr / 2)


def _log_error_ratio(prediction: str, log_snr: Tensor) -> Tensor:
    """log of ‖Δprediction‖² / ‖Δx0‖²."""
    require(prediction, PREDICTIONS, "prediction")
    if prediction == "x0":
        return torch.zeros_like(log_snr)
    if prediction == "eps":
        return log_snr
    if prediction == "v":
        return _log_snr_plus_one(log_snr)
    return 2 * _log_snr_plus_one(log_snr / 2)


def _log_snr_plus_one(log_snr: Tensor) -> Tensor:
    return torch.logaddexp(log_snr, torch.zeros_like(log_snr))
