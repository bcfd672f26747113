"""The numbers behind the plots of curves: they are what the functions they picture say."""

import math

import numpy as np
import pytest
import torch

from ldm.core.diffusion import predictions, times, weightings
from ldm.core.diffusion.names import SCHEDULES
from ldm.core.diffusion.schedules import schedule
from ldm.core.figures import COLOURS, Line, Panel, draw, lay_out
from ldm.core.plots import convergence, guiding
from ldm.core.plots.curves import schedule_panels, table_times, weight_panels


def test_schedule_curves_are_the_table_and_the_log_snr() -> None:
    named = {"cosine": schedule("cosine"), "linear+zero": schedule("linear", zero_terminal_snr=True)}
    signal, log_snr = schedule_panels(named)
    for panel in (signal, log_snr):
        assert [line.label for line in panel.lines] == list(named)
        assert [line.style for line in panel.lines] == ["-", "--"]
    for line, drawn, path in zip(signal.lines, log_snr.lines, named.values(), strict=True):
        assert torch.equal(line.x, torch.arange(1, 1001, dtype=torch.float64) / 1000)
        torch.testing.assert_close(line.y, path.alpha_bars, rtol=1e-12, atol=1e-30)
        expected = (path.alpha_bars / (1 - path.alpha_bars)).log()
        torch.testing.assert_close(drawn.y[:-1], expected[:-1], rtol=1e-6, atol=0)
    assert float(log_snr.lines[1].y[-1]) == -math.inf


def test_a_schedule_and_its_zero_terminal_form_share_a_colour_and_no_two_kinds_do() -> None:
    named = {kind: schedule(kind) for kind in SCHEDULES} | {"z": schedule("cosine", zero_terminal_snr=True)}
    colours = {line.label: line.colour for line in schedule_panels(named)[0].lines}
    assert colours["z"] == colours["cosine"]
    assert len({COLOURS[colours[kind]] for kind in SCHEDULES}) == len(SCHEDULES)


@pytest.mark.parametrize(("kind", "shown"), [("cosine", ["x0", "eps", "v"]), ("rectified-flow", ["x0", "flow"])])
def test_weight_panels_are_the_loss_weights_of_every_prediction_that_can_be_learned(
    kind: str, shown: list[str]
) -> None:
    path = schedule(kind)
    panels = weight_panels(path)
    assert [panel.title for panel in panels] == [f"on the {prediction} error" for prediction in shown]
    for panel, prediction in zip(panels, shown, strict=True):
        predictions.check(prediction, path)
        for line in panel.lines:
            expected = weightings.loss_weight(line.label, prediction, path.log_snr(table_times()))
            assert torch.equal(line.y, expected)
    assert ("flow" in [line.label for line in panels[0].lines]) == (kind == "rectified-flow")


def test_eps_is_not_shown_where_it_cannot_be_learned() -> None:
    panels = weight_panels(schedule("linear", zero_terminal_snr=True))
    assert [panel.title for panel in panels] == ["on the x0 error", "on the v error"]


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("euler", 1), ("heun", 2)])
def test_errors_on_rectified_flow_fall_with_the_sampler_s_order(sampler: str, order: int) -> None:
    costs, errors = convergence.sampler_errors(sampler, schedule("rectified-flow"), steps=(25, 100))
    evaluations = [2 * steps - 1 if sampler == "heun" else steps for steps in (25, 100)]
    assert costs.tolist() == evaluations
    assert math.log(errors[0] / errors[1], 4) == pytest.approx(order, abs=0.2)


def test_ddim_and_euler_are_drawn_as_one_line() -> None:
    (panel,) = convergence.sampler_panels({"linear": schedule("linear")})
    lines = {line.label: line for line in panel.lines}
    torch.testing.assert_close(lines["ddim"].y, lines["euler"].y, rtol=1e-6, atol=0)
    assert lines["ddim"].width > 2 * lines["euler"].width
    assert {"order 1", "order 2"} < lines.keys()


@pytest.mark.parametrize(("scale", "label"), [(1.0, guiding.RIGHT), (0.0, guiding.NULL)])
def test_scale_1_draws_the_class_and_scale_0_everything(scale: float, label: int) -> None:
    path = schedule("cosine", zero_terminal_snr=True)
    x, density = guiding.density(guiding.guided(path, scale), path)
    torch.testing.assert_close(density, guiding.DATA.density(x, label), rtol=0, atol=0.01)


def test_larger_scales_move_samples_away_from_the_other_class_and_narrow_them() -> None:
    path = schedule("cosine")
    means, stds = [], []
    for scale in (1.0, 3.0, 7.0):
        x, density = guiding.density(guiding.guided(path, scale), path)
        assert float(torch.trapezoid(density, x)) == pytest.approx(1, abs=1e-3)
        means.append(float(torch.trapezoid(x * density, x)))
        stds.append(float(torch.trapezoid((x - means[-1]) ** 2 * density, x)) ** 0.5)
    assert means == sorted(means) and means[2] > means[0] + 1
    assert stds == sorted(stds, reverse=True)


def test_guidance_paths_run_over_the_sampler_s_times() -> None:
    *densities, paths = guiding.guidance_panels(schedule("cosine"))
    grid = times.grid(1000, len(paths.lines[0].x) - 1)
    assert all(torch.equal(line.x, grid) and line.y.shape == grid.shape for line in paths.lines)
    assert [line.label for line in paths.lines if line.label] == ["s = 1", "s = 7"]
    assert [line.label for line in densities[0].lines] == ["the class itself", "s = 0", "s = 1", "s = 3", "s = 7"]


def test_what_is_drawn_is_what_the_lines_say() -> None:
    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    first = Panel(
        "a", "t", "y", [Line("p", t, t**2, colour=1), Line("", t, t, style="--")], y_range=(0.1, 2), falling=True
    )
    second = Panel("b", "t", "", [Line("p", t, t + 1, colour=1)], y_range=(0.1, 2), log="y")
    figure = lay_out([first, second], legend="right", width=3, height=2)
    for axes, panel in zip(figure.axes, (first, second), strict=True):
        assert axes.get_title() == panel.title
        for drawn, line in zip(axes.lines, panel.lines, strict=True):
            np.testing.assert_array_equal(drawn.get_xdata(), line.x.numpy())
            np.testing.assert_array_equal(drawn.get_ydata(), line.y.numpy())
            assert drawn.get_color() == COLOURS[line.colour]
    assert figure.axes[0].get_xlim()[0] > figure.axes[0].get_xlim()[1]
    assert figure.axes[1].get_yscale() == "log" and figure.axes[0].get_yscale() == "linear"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["p"]


@pytest.mark.parametrize("log", ["", "xy"])
def test_without_a_range_every_point_is_within_the_axes_and_with_one_it_holds(log: str) -> None:
    x = torch.tensor([5.0, 50.0, 500.0], dtype=torch.float64)
    free = Panel("a", "x", "y", [Line("p", x, 1 / x)], log=log)
    bound = Panel("b", "x", "y", [Line("p", x, 1 / x)], x_range=(1, 100), y_range=(1e-6, 1), log=log)
    first, second = lay_out([free, bound], legend="right", width=3, height=2).axes
    assert first.get_xlim()[0] < 5 and first.get_xlim()[1] > 500
    assert first.get_ylim()[0] < 1 / 500 and first.get_ylim()[1] > 1 / 5
    assert second.get_xlim() == (1, 100) and second.get_ylim() == (1e-6, 1)


def test_a_picture_is_the_same_whatever_style_is_set() -> None:
    import matplotlib

    t = torch.linspace(0, 1, 5, dtype=torch.float64)
    panels = [Panel("a", "t", "y", [Line("p", t, t)])]
    plain = draw(panels, width=3, height=2)
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "lines.linewidth": 9}):
        styled = draw(panels, width=3, height=2)
    assert plain.dtype == np.uint8 and plain.shape == (240, int(120 * 4.6), 3)
    np.testing.assert_array_equal(plain, styled)
    assert (plain[0, 0] == 255).all() and (plain < 100).any()
