"""R27: what unfinished work goes on from is its own: nothing damaged, exchanged or of other work is adopted.

Each stage is interrupted at its end, just before its manifest. Then something is put under it, and the same command
has to name that, and to end with the bytes of the uninterrupted run.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.core import files
from ldm.core.errors import DataError
from ldm.core.latents import shards
from ldm.core.pipeline import drawing
from ldm.core.runs import checkpoint
from ldm.core.runs.pieces import BOUND, PIECES, Pieces
from ldm.core.runs.roles import DENOISER
from ldm.core.runs.run import IDENTITY, MANIFEST, StageRun, open_run
from tests.support.forgery import forget_owner
from tests.support.ledger import Trials
from tests.support.pipeline_run import Heard, Pipeline
from tests.support.small_runs import contents

COMMANDS: dict[str, tuple[str, dict[str, Any]]] = {
    "encode": ("latents", {}),
    "sample": ("samples/some", {"label": "some", "num": 3}),
    "edit": ("edits/some", {"label": "some"}),
    "anagram": ("anagrams/some", {"label": "some", "classes": ["red", "blue"]}),
    "train-dit": ("dit", {}),
}
RARELY: dict[str, tuple[str, dict[str, Any]]] = {
    "hybrid": ("hybrids/some", {"label": "some", "near": "red", "far": "blue"}),
    "interpolate": ("interpolations/some", {"label": "some", "classes": ["red", "blue"], "frames": 4}),
    "train-classifier": ("classifier", {}),
    "distill": ("students/1", {"first_steps": 1, "train__checkpoint_every": 16}),
    "train-var": ("var", {}),
}
EACH = [*COMMANDS, *(pytest.param(name, marks=pytest.mark.slow) for name in RARELY)]


@dataclass(frozen=True)
class Interrupted:
    """A stage that was stopped before its manifest, the same of another run, and what it is to leave in the end."""

    command: str
    own: Pipeline
    other: Path
    expected: dict[str, Any]

    def copy(self, root: Path) -> Pipeline:
        shutil.copytree(self.own.folder, root / self.own.name)
        return Pipeline(root, self.own.images, self.own.name)

    def finish(self, copy: Pipeline) -> list[str]:
        """Run the command again, and see that it ends as if nothing had happened. Returns its warnings."""
        place, changes = {**COMMANDS, **RARELY}[self.command]
        heard = Heard()
        copy.run(self.command, heard, **changes)
        found = contents(copy.folder / place)
        assert found.keys() == self.expected.keys()
        assert not [name for name in found if found[name] != self.expected[name]]
        return heard.warnings


class Stop(BaseException):
    pass


def interrupt(pipeline: Pipeline, command: str, **changes: Any) -> None:
    """Run a command to the point at which only its manifest is missing."""

    def stop(*_: Any, **__: Any) -> None:
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StageRun, "commit", stop)
        with pytest.raises(Stop):
            pipeline.run(command, **changes)


@pytest.fixture(scope="module")
def interrupted(
    request: pytest.FixtureRequest, trained: Pipeline, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Interrupted]:
    command, root = request.param, tmp_path_factory.mktemp(request.param)
    place, changes = {**COMMANDS, **RARELY}[command]
    before = request.getfixturevalue("next_scale") if command == "train-var" else trained
    runs = [before.copy(root / name) for name in ("own", "other", "whole")]
    for run in runs:
        shutil.rmtree(run.folder / place, ignore_errors=True)
    other = runs[1]
    if command == "encode":
        other.run("train-vqvae", train__images=8, seed=1, replace=True)
        interrupt(other, command)
    else:
        interrupt(other, command, **changes, seed=1)
    interrupt(runs[0], command, **changes)
    runs[2].run(command, **changes)
    yield Interrupted(command, runs[0], other.folder / place, contents(runs[2].folder / place))
    shutil.rmtree(root)


def flip(path: Path, random: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
    path.write_bytes(content)


KINDS = ("flip", "exchange", "other", "other with its checksum", "stray")


def put_under(work: Interrupted, folder: Path, kind: str, random: np.random.Generator) -> list[str]:
    """Damage, exchange or replace what the work would go on from. Returns what the command has to name."""
    if (folder / checkpoint.FOLDER).is_dir():
        newest = max((folder / checkpoint.FOLDER).iterdir())
        if kind == "flip":
            flip(path := random.choice(sorted(newest.iterdir())), random)
            return [str(path)]
        shutil.rmtree(newest)
        shutil.copytree(work.other / checkpoint.FOLDER / newest.name, newest)
        return [str(newest)]
    pattern = "*.tar" if work.command == "encode" else "[0-9]*.png"
    names = [path.name for path in sorted(folder.glob(pattern))]
    name, second = random.choice(names, 2, replace=False)
    if kind == "flip":
        flip(folder / name, random)
    elif kind == "exchange":
        one, two = (folder / name).read_bytes(), (folder / second).read_bytes()
        (folder / name).write_bytes(two)
        (folder / second).write_bytes(one)
        return [str(folder / name), str(folder / second)]
    elif kind == "stray":  # Not recorded as finished, as if put there by hand.
        kept = [line for line in (folder / PIECES).read_text().splitlines() if str(name) not in line]
        (folder / PIECES).write_text("\n".join(kept))
        flip(folder / name, random)
    else:
        theirs = sorted(work.other.glob(pattern))[names.index(name)]
        (folder / name).write_bytes(theirs.read_bytes())
        if kind == "other with its checksum":
            (folder / PIECES).write_text((work.other / PIECES).read_text())
            return [str(folder / each) for each in names]
    return [str(folder / name)]


@pytest.mark.promise("R27", quick=3, full=100)
@pytest.mark.parametrize("interrupted", EACH, indirect=True)
def test_what_is_not_its_own_is_named_and_never_adopted(
    interrupted: Interrupted, trials: Trials, tmp_path: Path
) -> None:
    place, _ = {**COMMANDS, **RARELY}[interrupted.command]
    for number, random in enumerate(trials):
        copy = interrupted.copy(tmp_path / str(number))
        named = put_under(interrupted, copy.folder / place, KINDS[number % len(KINDS)], random)
        warnings = interrupted.finish(copy)
        assert len(warnings) == len(named) and all(any(path in each for each in warnings) for path in named), warnings
        shutil.rmtree(copy.folder)


@pytest.mark.promise("R27")
@pytest.mark.parametrize("interrupted", COMMANDS, indirect=True)
def test_its_own_pieces_are_adopted_and_not_made_again(
    interrupted: Interrupted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = interrupted.copy(tmp_path)

    def fail(*_: Any) -> None:
        pytest.fail("it was there")

    monkeypatch.setattr(shards, "write_shard", fail)
    if interrupted.command in ("sample", "edit", "anagram"):
        monkeypatch.setattr(drawing, "generate", fail)
    assert interrupted.finish(copy) == []
    assert not list(copy.folder.rglob(PIECES))


@pytest.mark.promise("R27")
def test_a_training_all_of_whose_checkpoints_are_of_another_does_not_start_from_them_nor_anew(
    trained: Pipeline, copied: Pipeline
) -> None:
    copied.run("train-dit", replace=True, seed=5)
    folder = copied.folder / "dit"
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / checkpoint.FOLDER)
    shutil.copytree(trained.folder / "dit" / checkpoint.FOLDER, folder / checkpoint.FOLDER)
    with pytest.raises(DataError, match=r"no checkpoint in .* is whole and of this training"):
        copied.run("train-dit", seed=5)


@pytest.mark.promise("R27")
def test_checkpoints_from_before_they_recorded_their_run_load_in_directories_from_before(copied: Pipeline) -> None:
    folder = copied.folder / "dit"
    newest = folder / checkpoint.FOLDER / "0000000064"
    forget_owner(newest)
    with pytest.raises(DataError, match="is of another training"):
        checkpoint.load(newest)
    identity = files.read_json(folder / IDENTITY)
    del identity[BOUND]
    files.write_json(folder / IDENTITY, identity)
    assert checkpoint.load(newest).state["images"] == 64


@pytest.mark.promise("R27")
def test_a_line_that_a_kill_cut_short_costs_its_own_piece_only(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text(name)
    Pieces(tmp_path).add({"a": files.sha256_file(tmp_path / "a")})
    with (tmp_path / PIECES).open("a") as file:
        file.write('\n{"file": "b", "sha')
    Pieces(tmp_path).add({"c": files.sha256_file(tmp_path / "c")})
    warnings: list[str] = []
    assert Pieces(tmp_path).whole(["a", "b", "c", "d"], warnings.append) == [True, False, True, False]
    assert len(warnings) == 1 and str(tmp_path / "b") in warnings[0]


@pytest.mark.promise("R27")
@pytest.mark.parametrize("harm", ["of another training", "damaged"])
def test_a_best_state_that_is_not_its_own_is_not_kept_as_the_best(harm: str, trained: Pipeline, tmp_path: Path) -> None:
    """Interrupted half-way, with a best state put under it: the next evaluation replaces that, whatever its value."""
    measured = {"metrics__every": 32, "metrics__num": 12, "metrics__steps": 2}
    own, other = trained.copy(tmp_path / "own"), trained.copy(tmp_path / "other")
    for run, seed in ((own, 0), (other, 1)):
        shutil.rmtree(run.folder / "dit")
        run.run("train-dit", replace=True, seed=seed, **measured)
    folder = own.folder / "dit"
    (folder / MANIFEST).unlink()
    shutil.rmtree(folder / checkpoint.FOLDER / "0000000064")
    if harm == "damaged":
        flip(folder / "best" / "final" / "model.safetensors", np.random.default_rng(0))
    else:
        shutil.rmtree(folder / "best")
        shutil.copytree(other.folder / "dit" / "best", folder / "best")
    own.run("train-dit", seed=0, **measured)
    best = files.read_json(folder / "best" / MANIFEST)
    assert best["config"]["seed"] == 0 and best["facts"]["images_seen"] == 64
    open_run(folder / "best", DENOISER, "").verify()
