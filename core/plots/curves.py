"""The schedules and loss weights as curves over time."""

from collections.abc import Mapping

import torch

from ..diffusion import predictions, weightings
from ..diffusion.names import PREDICTIONS, SCHEDULES, WEIGHTINGS
from ..diffusion.schedules import Schedule
from ..figures import Line, Panel

_LOG_SNR_SHOWN = (-20.0, 12.0)
_WEIGHTS_SHOWN = (1e-3, 2 * weightings.CAP)


def table_times(num_steps: int = 1000) -> torch.Tensor:
    """Return the times of a table, 1/T … 1, float64 (T,): t = 0 is left out, where the log-SNR is infinite."""
    return torch.arange(1, num_steps + 1, dtype=torch.float64) / num_steps


def schedule_panels(schedules: Mapping[str, Schedule]) -> list[Panel]:
    """Return the signal alpha² (ᾱ where variance preserving) and the log-SNR of named schedules, a panel each.

    A schedule has its kind's colour; where it was rescaled to zero terminal SNR its line is dashed.
    """
    t = table_times()
    signal, log_snr = [], []
    for name, schedule in schedules.items():
        colour = SCHEDULES.index(schedule.kind)
        style = "--" if schedule.zero_terminal_snr and schedule.variance_preserving else "-"
        signal.append(Line(name, t, schedule.alpha_sigma(t)[0] ** 2, colour, style))
        log_snr.append(Line(name, t, schedule.log_snr(t), colour, style))
    return [
        Panel("signal left", "t (0 data, 1 noise)", r"$\bar\alpha = \alpha^2$", signal),
        Panel("log-SNR", "t (0 data, 1 noise)", r"$\log(\alpha^2 / \sigma^2)$", log_snr, y_range=_LOG_SNR_SHOWN),
    ]


def weight_panels(schedule: Schedule, gamma: float = 5.0) -> list[Panel]:
    """Return every weighting over time on a schedule: on the x0 error, then on each prediction's own error.

    Shown are the predictions that can be learned on this schedule. `flow`, the plain loss on the velocity of rectified
    flow, is shown on that path only.
    """
    t = table_times(schedule.num_steps)
    log_snr = schedule.log_snr(t)
    shown = [kind for kind in WEIGHTINGS if kind != "flow" or not schedule.variance_preserving]
    panels: list[Panel] = []
    for prediction in ("x0", *(kind for kind in PREDICTIONS if kind != "x0")):
        try:
            predictions.check(prediction, schedule)
        except ValueError:
            continue
        lines = [
            Line(
                kind,
                t,
                weightings.loss_weight(kind, prediction, log_snr, gamma),
                colour=WEIGHTINGS.index(kind),
                width=5.5 - 0.9 * place,
            )
            for place, kind in enumerate(shown)
        ]
        label = "weight" if not panels else ""
        panels.append(Panel(f"on the {prediction} error", "t", label, lines, y_range=_WEIGHTS_SHOWN, log="y"))
    return panels
