"""R29: commands that read for people check as stages do: what was falsified is named, and not shown as if it were true.

Falsified are files that a manifest lists; and manifests, whose own hash is mended, against the files that they list.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.core import files
from ldm.core.errors import DataError
from ldm.core.interchange.export_record import CARD, RECORD
from ldm.core.runs.run import MANIFEST
from ldm.stages.configs.folders import Inspect
from ldm.stages.configs.report import Report
from ldm.stages.tools import inspect, report
from tests.support.exchanged import run_export, run_import
from tests.support.forgery import write_manifest
from tests.support.ledger import Trials
from tests.support.pipeline_run import Heard, Pipeline

Falsify = Callable[[Path, np.random.Generator], Path]


def change_number(run: Path, random: np.random.Generator) -> Path:
    path = run / "eval" / "shown" / "metrics.json"
    document = json.loads(path.read_bytes())
    name = random.choice(sorted(document["numbers"]))
    document["numbers"][name] = float(random.random())
    path.write_text(json.dumps(document, indent=2) + "\n")
    return path


def exchange_grid(run: Path, random: np.random.Generator) -> Path:
    path = run / "samples" / "shown" / "grid.png"
    others = sorted((run / "samples" / "shown").glob("0*.png"))
    path.write_bytes(others[int(random.integers(len(others)))].read_bytes())
    return path


def in_manifest(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    manifest = json.loads((folder / MANIFEST).read_bytes())
    change(manifest["facts"])
    write_manifest(folder, manifest)
    return folder / MANIFEST


def rename_classes(run: Path, random: np.random.Generator) -> Path:
    return in_manifest(run / "dit", lambda facts: facts["class_names"].reverse())


def change_prediction(run: Path, random: np.random.Generator) -> Path:
    other = str(random.choice(["eps", "x0"]))
    return in_manifest(run / "dit", lambda facts: facts["diffusion"].update(prediction=other))


def change_dropout(run: Path, random: np.random.Generator) -> Path:
    return in_manifest(run / "dit", lambda facts: facts.update(label_dropout=float(random.uniform(0, 0.9))))


def change_statistics(run: Path, random: np.random.Generator) -> Path:
    shift = float(random.uniform(1, 2))
    return in_manifest(run / "vqvae", lambda facts: facts.update(latent_mean=[x + shift for x in facts["latent_mean"]]))


def change_fact_of_numbers(run: Path, random: np.random.Generator) -> Path:
    name = "nearest_ratio"

    def change(facts: dict[str, Any]) -> None:
        (key,) = [key for key in facts["numbers"] if key.startswith(name)]
        facts["numbers"][key] = float(random.random())

    return in_manifest(run / "eval" / "shown", change)


def exchange_shards(run: Path, random: np.random.Generator) -> Path:
    return in_manifest(run / "latents", lambda facts: facts["shards"]["train"].reverse())


def change_counts(run: Path, random: np.random.Generator) -> Path:
    return in_manifest(
        run / "latents", lambda facts: facts["class_counts"].reverse() or facts["class_counts"].append(1)
    )


SHOWN: list[Falsify] = [change_number, exchange_grid, change_fact_of_numbers]
TRAINED: list[Falsify] = [rename_classes, change_prediction, change_dropout, change_statistics]
ENCODED: list[Falsify] = [exchange_shards, change_counts]
ALL = [*SHOWN, *TRAINED, *ENCODED]


def falsified(run: Pipeline, kind: Falsify, random: np.random.Generator, root: Path) -> tuple[Pipeline, Path]:
    """Copy a run and falsify something in it. Returns the copy, and what is to be named."""
    shutil.copytree(run.folder, root / run.name)
    copy = Pipeline(root, run.images, run.name)
    return copy, kind(copy.folder, random)


@pytest.mark.promise("R29", quick=2, full=100)
def test_a_report_names_what_was_falsified_and_leaves_it_out(trials: Trials, drawing: Pipeline, tmp_path: Path) -> None:
    for number, random in enumerate(trials):
        copy, path = falsified(drawing, ALL[number % len(ALL)], random, tmp_path / str(number))
        heard, others = Heard(), ("other",) if trials.full and number % 2 else ()
        for other in others:
            shutil.copytree(drawing.folder, copy.runs_dir / other)
        report.run(Report(name=copy.name, others=others, runs_dir=copy.runs_dir), heard)
        assert [each for each in heard.warnings if str(path) in each], (path, heard.warnings)


@pytest.mark.promise("R29", quick=4, full=100)
def test_inspect_names_what_was_falsified(trials: Trials, drawing: Pipeline, tmp_path: Path) -> None:
    for number, random in enumerate(trials):
        copy, path = falsified(drawing, ALL[number % len(ALL)], random, tmp_path / str(number))
        for place in (copy.folder, path.parent):
            outcome = inspect.run(Inspect(path=place), Heard())
            said = " ".join([str(outcome.verdict), *outcome.summary.values()])
            assert "damaged" in said and str(path) in said, said


@pytest.mark.promise("R29", quick=1, full=100)
def test_an_export_names_what_was_falsified_and_does_not_carry_it(
    trials: Trials, drawing: Pipeline, tmp_path: Path
) -> None:
    for number, random in enumerate(trials):
        kinds = [*SHOWN, *TRAINED]
        copy, path = falsified(drawing, kinds[number % len(kinds)], random, tmp_path / str(number))
        heard, directory = Heard(), tmp_path / f"export-{number}"
        try:
            run_export(copy, directory, heard)
        except DataError as error:
            heard.warn(error.message)
            assert not directory.exists()
        assert [each for each in heard.warnings if str(path) in each], (path, heard.warnings)
        if directory.exists():
            assert path.parent.parent.name in ("samples", "eval"), "what is exported is refused, not left out"
            assert (directory / "grid.png").exists() == (path.parent.parent.name == "eval")
            shutil.rmtree(directory)
        shutil.rmtree(copy.runs_dir)


@pytest.mark.promise("R29", quick=6, full=100)
def test_an_import_names_what_differs_from_the_record_of_our_own_export(
    trials: Trials, exported: Path, tmp_path: Path
) -> None:
    names = [name for name in json.loads((exported / RECORD).read_bytes())["files"] if name != CARD]
    folder = Path(shutil.copytree(exported, tmp_path / "export"))
    for number, random in enumerate(trials):
        path = folder / str(random.choice(names))
        whole = path.read_bytes()
        if path.suffix == ".json" and random.random() < 0.5:
            document = json.loads(whole)
            document["_note"] = int(random.integers(1000))
            files.write_json(path, document)
        else:
            place = int(random.integers(len(whole)))
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << int(random.integers(8))]) + whole[place + 1 :])
        own = Pipeline(tmp_path / str(number), Path())
        with pytest.raises(DataError) as caught:
            run_import(own, folder)
        assert str(path) in caught.value.message
        assert not list(own.runs_dir.rglob(MANIFEST))
        path.write_bytes(whole)
    run_import(Pipeline(tmp_path / "whole", Path()), folder)


@pytest.mark.promise("R29")
def test_a_network_beside_another_manifest_is_named_wherever_it_is_given(copied: Pipeline) -> None:
    """A classifier that is given by the path of its weights, its class names exchanged."""
    path = copied.folder / "classifier" / "final" / "config.json"
    described = json.loads(path.read_bytes())
    described["class_names"].reverse()
    path.write_text(json.dumps(described))
    copied.run("sample", num=4, label="some")
    with pytest.raises(DataError, match=r"final/config\.json is damaged: its sha256 differs from .*manifest\.json"):
        copied.run("eval", samples="some", weights=path.parent, features="classifier")


@pytest.mark.promise("R29")
def test_statistics_that_an_evaluation_saved_are_compared_with_its_manifest(copied: Pipeline) -> None:
    copied.run("sample", num=4, label="some")
    saved = copied.run("eval", samples="some").directory
    tensors = next(path for path in saved.glob("*.safetensors"))
    content = bytearray(tensors.read_bytes())
    content[-1] ^= 1
    tensors.write_bytes(content)
    copied.run("sample", num=4, label="other", seed=9)
    with pytest.raises(DataError, match=f"{tensors.name} is damaged"):
        copied.run("eval", samples="other", reference=str(saved))
