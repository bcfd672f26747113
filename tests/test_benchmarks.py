"""What benchmarks found, on disk and on the page; how fast anything is, no test asks."""

import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from pydantic import ValidationError

from benchmarks import captions, commands, page, processes, shortcuts, var_scaling
from benchmarks.__main__ import keep
from benchmarks.processes import EndedError, Variant, compare_processes
from benchmarks.quality import __main__ as quality
from benchmarks.quality import listed
from benchmarks.quality import page as choices_page
from benchmarks.quality import work as quality_work
from benchmarks.training import losses
from ldm.core.autoencoders import registry as autoencoders
from ldm.core.conditioning.own_encoder import OwnEncoder
from ldm.core.conditioning.text import TextConditioning
from ldm.core.denoisers import registry as denoisers
from ldm.core.errors import ConfigError, Stopped
from ldm.core.runs.weights import without_draws

MACHINE = {
    "device": "a processor",
    "threads": 2,
    "bf16_units": None,
    "torch": "2.13.0",
    "date": "2026-11-21",
    "matmul_gflops": {"fp32": 150, "bf16": 700},
}
CURVES = {
    "peer": [(10 * n, 2 / n) for n in range(1, 31)],
    "ours": [(10 * n, 1 / n) for n in range(1, 31)],
}


def result(**parts: Any) -> dict[str, Any]:
    return {"benchmark": "training", "machine": MACHINE, **parts}


def compared(seconds: float) -> dict[str, Any]:
    row = {"seconds": seconds, "spread": [seconds, seconds], "ratio": 1.0, "ratio_spread": [1.0, 1.0]}
    return {"baseline": "peer", "rounds": 5, "variants": {"peer": row}}


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    path = tmp_path / "training.json"
    titles = {"tiny: of old": compared(1), "S/2: as ever": compared(2), "of no size": compared(3)}
    keep(path, result(comparisons=titles, curves={"tiny: old": CURVES}, facts={"old": 1}), ["tiny", "S/2"])
    return path


def test_a_result_replaces_what_it_measured_and_keeps_the_sizes_left_out(kept: Path) -> None:
    keep(kept, result(comparisons={"tiny: of now": compared(4)}), ["tiny"])
    found = json.loads(kept.read_text())
    assert found["comparisons"] == {"S/2: as ever": compared(2), "tiny: of now": compared(4)}
    assert not found.keys() & {"facts", "curves"}
    keep(kept, result(comparisons={"S/2: of now": compared(5)}, facts={"new": 2}), ["tiny", "S/2"])
    found = json.loads(kept.read_text())
    assert found["comparisons"] == {"S/2: of now": compared(5)} and found["facts"] == {"new": 2}


def test_what_another_device_measured_does_not_stay(kept: Path) -> None:
    other = result(comparisons={"tiny: of now": compared(4)}) | {"machine": MACHINE | {"device": "another"}}
    keep(kept, other, ["tiny"])
    assert json.loads(kept.read_text())["comparisons"] == {"tiny: of now": compared(4)}


def test_curves_stand_side_by_side_by_tenths_and_as_a_picture(tmp_path: Path) -> None:
    results, performance = tmp_path / "results", tmp_path / "performance.md"
    results.mkdir()
    keep(results / "training.json", result(curves={"tiny: 300 steps": CURVES}), ["tiny"])
    performance.write_text(
        "before\n<!-- training: begin -->\nold\n<!-- training: end -->\n"
        "<!-- encode: begin -->\nof a result that is gone\n<!-- encode: end -->\nafter\n"
    )
    page.write(results, performance)
    text = performance.read_text()
    assert "| steps | peer | ours | ratio |" in text and text.count(" | 0.500 |") == 10
    assert "| 1 – 30 | 1.2222 | 0.6111 | 0.500 |" in text and "| 271 – 300 |" in text, "means of 2, 1 and 2/3; of half"
    assert "old" not in text and "<!-- encode: begin -->\n<!-- encode: end -->\nafter\n" in text
    assert f"]({page.LOSSES})" in text
    drawn = (tmp_path / page.LOSSES).read_text()
    assert ElementTree.fromstring(drawn).tag == "{http://www.w3.org/2000/svg}svg"
    assert ">peer<" in drawn and ">ours<" in drawn and "currentColor" not in drawn, "a picture has no ink of a page"
    page.write(results, performance)
    assert performance.read_text() == text


def counting() -> Any:
    numbers = iter(range(25))
    return lambda: float(next(numbers))


def test_a_point_of_a_loss_curve_is_the_mean_of_ten_steps() -> None:
    assert losses(Variant(counting), 25) == [(10, 4.5), (20, 14.5), (25, 22.0)]


@pytest.fixture
def two_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pairs of processes, begun as copies of this one: a new one would import torch for seconds."""
    monkeypatch.setattr(processes, "AT_ONCE", 2)
    copied = multiprocessing.get_context("fork")
    monkeypatch.setattr(processes.multiprocessing, "get_context", lambda kind: copied)


def writing(log: Path, name: str) -> Any:
    return lambda: log.write_text(log.read_text() + name)


def ending() -> Any:
    return lambda: os._exit(3)


@pytest.mark.usefixtures("two_at_once")
@pytest.mark.slow  # processes of their own
def test_variants_that_do_not_all_live_at_once_are_each_compared_with_the_baseline_by_turns(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("")
    variants = {name: Variant(writing, {"log": log, "name": name}) for name in "abc"}
    found = compare_processes(variants, rounds=5, warmup=1, baseline="b")
    assert log.read_text() == "ba" + "baabbaabba" + "bc" + "bccbbccbbc"
    assert found["baseline"] == "b" and list(found["variants"]) == ["a", "b", "c"]
    assert found["variants"]["b"]["ratio_spread"] == [1, 1]


@pytest.mark.usefixtures("two_at_once")
def test_a_process_that_is_killed_is_named_with_its_exit_code(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("")
    variants = {"a": Variant(writing, {"log": tmp_path / "log", "name": "a"}), "b": Variant(ending)}
    with pytest.raises(EndedError, match="'b' ended with exit code 3"):
        compare_processes(variants, rounds=5)


@pytest.mark.parametrize("path", sorted(listed.FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_choice_of_the_lists_is_of_settings_that_exist(path: Path) -> None:
    bench = listed.read(path)
    assert not bench.choices[bench.baseline], "the others are compared with the recipe as it is"
    keys = [bench.result_key(changes, 0) for changes in bench.choices.values()]
    assert len(set(keys)) == len(keys), "a choice is another's"
    only_sampled = [changes for changes in bench.choices.values() if set(changes) <= {"sample"}]
    assert len({bench.training_key(bench.of_denoiser(changes), 0) for changes in only_sampled}) == 1


def test_a_list_with_an_unknown_setting_or_command_is_refused() -> None:
    given = {"name": "x", "title": "x", "recipe": "mnist", "seconds": 1}
    with pytest.raises(ConfigError, match=r"unknown setting train\.lrr"):
        listed.Bench.model_validate({**given, "choices": {"a": {"train-dit": {"train.lrr": 1}}}})
    with pytest.raises(ValidationError, match="changes train-classifier"):
        listed.Bench.model_validate({**given, "choices": {"a": {"train-classifier": {"train.lr": 1}}}})
    with pytest.raises(ConfigError, match=r"unknown setting train\.lrr"):
        listed.Bench.model_validate({**given, "choices": {"a": {}}, "always": {"train-dit": {"train.lrr": 1}}})


def test_what_holds_for_all_choices_takes_the_recipes_place_and_a_choice_takes_its() -> None:
    given = {"name": "x", "title": "x", "recipe": "mnist", "seconds": 1, "choices": {"a": {}}}
    plain = listed.Bench.model_validate(given)
    bench = listed.Bench.model_validate({**given, "always": {"train-dit": {"train.lr": 0.25, "train.warmup": 9}}})
    found = bench.settings("train-dit", {"train-dit": {"train.warmup": 7}}).train
    assert (found.lr, found.warmup) == (0.25, 7)
    assert bench.training_key({}, 0) != plain.training_key({}, 0)


def test_the_processes_of_a_list_share_its_choices_and_one_has_the_baseline(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    done: list[list[str]] = []

    class Recorded(quality_work.Work):
        def result(self, name: str, seed: int) -> dict[str, Any]:
            done[-1].append(name)
            return {"images": 1, "numbers": {}}

    monkeypatch.setattr(quality, "Work", Recorded)
    for part in ("1/2", "2/2"):
        done.append([])
        given = ["quality", str(listed.FOLDER / "digits.yaml"), "--folder", str(tmp_path), "--part", part]
        monkeypatch.setattr(sys, "argv", [*given, "--only", "eps", "muon", "x0"])
        quality.main()
    assert done == [["recipe", "muon"], ["eps", "x0"]]


def test_the_page_of_choices_has_the_best_scale_of_each_and_the_losers_too() -> None:
    numbers = {"kernel_distance": 0.0, "class_accuracy": 0.9, "recall": 0.5}

    def row(choice: str, seed: int, *distances: float) -> dict[str, Any]:
        scales = {f"{scale:g}": {**numbers, "frechet_distance": d} for scale, d in zip((1, 3), distances, strict=True)}
        changes = {"train-dit": {"train.lr": 0.1}} if choice == "fast" else {}
        plan = {"images": 1000, "speed": 1.0, "floor": {**numbers, "frechet_distance": 0.5}}
        return {"choice": choice, "seed": seed, "changes": changes, "numbers": scales, **plan}

    bench = {"title": "Some", "recipe": "mnist", "seconds": 9, "autoencoder_seconds": None, "precision": "fp32"}
    bench |= {"compile": False, "num": 5, "features": "classifier", "seeds": [0, 1], "name": "some"}
    rows = [row("recipe", 0, 2.0, 4.0), row("recipe", 1, 4.0, 4.0), row("fast", 0, 9.0, 6.0), row("fast", 1, 9.0, 6.0)]
    text = choices_page.section({"bench": bench, "baseline": "recipe", "machine": MACHINE, "rows": rows})
    assert "| recipe | – | 1,000 | 1.00 | 1 | 3 ± 1.4 | 1.00 |" in text
    assert "| fast | `train-dit train.lr=0.1` | 1,000 | 1.00 | 3 | 6 ± 0 | 2.00 |" in text
    assert text.index("| recipe |") < text.index("| fast |") < text.index("| *real images* |")
    more = {"run": "runs/own", "always": {"train-dit": {"train.early": 0}, "sample": {"autoguide": None}}}
    text = choices_page.section({"bench": bench | more, "baseline": "recipe", "machine": MACHINE, "rows": rows})
    assert "that of `runs/own`" in text and "with `train-dit train.early=0`, `sample autoguide=null`;" in text


def test_a_rate_is_measured_after_the_start_of_a_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, *(10.0 + n for n in range(20))])
    monkeypatch.setattr(quality_work.time, "process_time", lambda: next(seconds))
    window = quality_work.Window(15.0)
    window.start("reading", 1, "images")
    window.update(1)
    window.start("training", 100, "images")
    with pytest.raises(Stopped):
        for step in range(20):
            window.update(64 * (step + 1))
    assert window.rate == pytest.approx(64.0)


def test_a_list_has_the_choices_of_another_and_its_own(tmp_path: Path) -> None:
    head = "title: A list\nrecipe: mnist\nseconds: 60\n"
    (tmp_path / "one.yaml").write_text(f"{head}choices: {{recipe: {{}}, eps: {{}}, x0: {{}}}}\n")
    own = "{eps: null, x0: {sample: {steps: 9}}, flow: {}}"
    (tmp_path / "other.yaml").write_text(f"{head}choices_of: one\nchoices: {own}\n")
    assert listed.read(tmp_path / "other.yaml").choices == {"recipe": {}, "x0": {"sample": {"steps": 9}}, "flow": {}}


def test_a_power_law_is_found_and_drawn(tmp_path: Path) -> None:
    rows = [
        {"depth": d, "parameters": 1000 * d**3, "val_loss": 5 * (1000 * d**3) ** -0.2, "curve": [(1, 2.0), (2, 1.0)]}
        for d in (1, 2, 4)
    ]
    law = var_scaling.fit(rows, "val_loss")
    assert law == pytest.approx({"exponent": -0.2, "factor": 5.0, "correlation": -1.0})
    var_scaling.write(tmp_path / "law.png", tmp_path / "law.json", {}, rows)
    assert json.loads((tmp_path / "law.json").read_text())["fits"]["val_loss"] == pytest.approx(law)
    assert (tmp_path / "law.png").stat().st_size > 1000


def test_depths_are_sized_as_published() -> None:
    for depth in var_scaling.DEPTHS:
        config = commands.configured("train-var", "mnist-var", var_scaling.shape(depth))
        own = config.model.network_config(scales=(1, 2), codebook_size=4, code_channels=4)
        assert (own.depth, own.width, own.heads) == (depth, 64 * depth, depth)


def test_autoencoders_with_and_without_shortcuts_have_the_same_parameters_and_as_large_latents() -> None:
    for factor, model in shortcuts.MODELS.items():
        counts = []
        for kept in (True, False):
            config = commands.configured("train-autoencoder", None, {**model, "model.shortcuts": kept})
            with without_draws("meta"):
                network = autoencoders.build(config.model.network_config())
            counts.append(sum(p.numel() for p in network.parameters()))
            assert network.latent_shape(64) == (512 * factor**2 // 64**2, 64 // factor, 64 // factor)
        assert counts[0] == counts[1]


def test_networks_that_read_captions_are_about_the_same_size() -> None:
    texts = TextConditioning(OwnEncoder().describe(), 16, vocabulary=tuple(range(60)))
    counts = []
    for choice in (captions.DETAILED_FIRST, *captions.NETWORKS):
        config = commands.configured("train-denoiser", None, captions.settings(choice, 100_000))
        sizes = config.model.network_config(latent_channels=16, latent_size=(8, 8), label_dropout=0.1, **texts.sizes)
        with without_draws("meta"):
            counts.append(sum(p.numel() for p in denoisers.build(sizes).parameters()))
    assert max(counts) < 1.1 * min(counts)


def test_choices_of_captions_change_one_thing_and_leave_the_rest_to_the_recipe() -> None:
    base = captions.settings(captions.DETAILED_FIRST, 1_000)
    assert (base["synthetic_first"], base["synthetic_falling"], base["synthetic_share"]) == (500, 300, 0.1)
    for choice, share in captions.SHARES.items():
        own = captions.settings(choice, 1_000)
        assert own == {**base, "synthetic_first": 0, "synthetic_falling": 0, "synthetic_share": share}
    frozen = captions.settings(captions.FROZEN, 1_000)
    assert base == {**frozen, "model.text_layers": base["model.text_layers"]}
    for choice in captions.NETWORKS:
        own = captions.settings(choice, 1_000)
        assert {key for key in own.items() ^ base.items() if not key[0].startswith("model.")} == set()


def test_results_of_captions_are_kept_beside_each_other_and_renewed(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    of = {"images": 100, "seed": 0}
    for choice, loss in [(captions.FROZEN, 2.0), (captions.DETAILED_FIRST, 3.0), (captions.FROZEN, 1.0)]:
        captions.write(path, {"choice": choice, **of, "val_loss": loss})
    rows = json.loads(path.read_text())["rows"]
    assert [(each["choice"], each["val_loss"]) for each in rows] == [
        (captions.DETAILED_FIRST, 3.0),
        (captions.FROZEN, 1.0),
    ]
