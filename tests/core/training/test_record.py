"""metrics.jsonl has each line once, whatever interrupted the run, and means that an interruption does not change."""

import json
import math
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from ldm.core.runs.metrics_log import METRICS, read
from ldm.core.training.record import Meter, MetricsLog, write_curves
from ldm.core.training.trackers import TensorBoard


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(text) for text in (folder / METRICS).read_text().splitlines()]


def test_means_are_over_the_steps_since_the_last_line() -> None:
    meter = Meter()
    for loss in (1.0, 2.0, 6.0):
        meter.add({"loss": loss, "lr": 0.5})
    assert meter.flush() == {"loss": 3.0, "lr": 0.5}
    assert meter.flush() == {}
    meter.add({"loss": 4.0})
    assert meter.flush() == {"loss": 4.0}


def test_a_number_that_some_steps_lack_is_the_mean_over_those_that_have_it() -> None:
    meter = Meter()
    meter.add({"loss": 1.0})
    meter.add({"loss": 2.0, "discriminator_loss": 5.0, "grad_norm": math.inf})
    meter.add({"loss": 3.0, "discriminator_loss": 7.0, "grad_norm": 4.0})
    assert meter.flush() == {"loss": 2.0, "discriminator_loss": 6.0, "grad_norm": 4.0}


def test_a_meter_that_went_through_json_gives_the_same_line_to_the_bit() -> None:
    whole, before = Meter(), Meter()
    numbers = [{"loss": 0.1 * k, "other": 1 / (k + 3)} for k in range(10)]
    for each in numbers:
        whole.add(each)
    for each in numbers[:4]:
        before.add(each)
    after = Meter.model_validate_json(before.model_dump_json())
    for each in numbers[4:]:
        after.add(each)
    assert after.flush() == whole.flush()


def test_a_resumed_record_drops_the_lines_after_the_checkpoint_and_one_that_was_cut_short(tmp_path: Path) -> None:
    record = MetricsLog(tmp_path, -1)
    for images in (0, 64, 64, 128, 192):
        record.add({"images": images, "loss": images / 3})
    with (tmp_path / METRICS).open("a") as file:
        file.write('{"images": 256, "lo')
    MetricsLog(tmp_path, 128).add({"images": 192, "loss": 1.0})
    assert [line["images"] for line in lines(tmp_path)] == [0, 64, 64, 128, 192]
    assert lines(tmp_path)[3]["loss"] == 128 / 3
    MetricsLog(tmp_path, -1)
    assert (tmp_path / METRICS).read_bytes() == b""


def test_numbers_that_are_not_finite_are_left_out_of_a_line(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    record = MetricsLog(tmp_path, -1, seen.append)
    record.add({"images": 64, "loss": math.nan, "val_loss": math.inf, "skipped": 3})
    assert lines(tmp_path) == seen == [{"images": 64, "skipped": 3}]


def test_damaged_lines_are_passed_over_when_read(tmp_path: Path) -> None:
    good = {"images": 64, "loss": 1.0}
    (tmp_path / METRICS).write_bytes(b'\xff\xfe\n[]\n3\n{}\n{"images": "many"}\n\n' + json.dumps(good).encode() + b"\n")
    assert read(tmp_path / METRICS) == [good]
    assert read(tmp_path / "absent.jsonl") == []


@pytest.mark.parametrize("rows", [[], [{"images": 0, "val_loss": 2.0}, {"images": 64, "loss": 1.0}], [{"images": 64}]])
def test_the_curves_are_a_picture_whatever_the_lines_hold(tmp_path: Path, rows: list[dict[str, Any]]) -> None:
    record = MetricsLog(tmp_path, -1)
    for row in rows:
        record.add(row)
    with Image.open(write_curves(tmp_path)) as picture:
        assert picture.format == "PNG" and picture.size == (960, 540)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["loss.png", METRICS]


def test_every_line_also_goes_to_tensorboard_when_asked(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    MetricsLog(tmp_path, -1, TensorBoard(tmp_path).line).add({"images": 64, "loss": 0.25})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(64, 0.25)]


def test_tensorboard_shows_each_step_once_though_steps_were_done_again(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="needs the package tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorBoard(tmp_path).line
    for images in (64, 128, 192):
        first({"images": images, "loss": 0.25})
    time.sleep(1.1)  # Its files are in order by the second.
    again = TensorBoard(tmp_path, 64).line
    for images in (128, 192):
        again({"images": images, "loss": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(64, 0.25), (128, 0.5), (192, 0.5)]
