"""R26: every remedy that a command prints is followed to the letter: it mends, loses nothing, and ends."""

import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ldm.cli.main import run
from ldm.core import files
from ldm.core.runs import checkpoint
from ldm.core.runs.run import IDENTITY, MANIFEST, RECIPE
from tests.support.ledger import Trials
from tests.support.pipeline_run import Pipeline
from tests.support.remedies import RUNS, unknown
from tests.support.small_runs import contents

MEASURED = ["metrics.every=32", "metrics.num=12", "metrics.steps=2"]
COMMANDS: dict[str, list[str]] = {
    "train-vqvae": [],
    "encode": [],
    "train-dit": MEASURED,
    "train-classifier": [],
    "sample": ["--label", "some", "--num", "4"],
    "sample --checkpoint best": ["--label", "best", "--num", "1"],
    "eval": ["--samples", "some"],
}
MORE: dict[str, list[str]] = {
    "distill": ["first_steps=1"],
    "edit": ["--label", "some"],
    "anagram": ["--label", "some", "--class", "red", "--class", "blue"],
    "interpolate": ["--label", "some", "--class", "red", "--class", "blue", "--frames", "4"],
    "sample --checkpoint latest": ["--label", "latest", "--num", "1"],
    "sample --denoiser students": ["--label", "student", "--num", "1", "--save-latents", "steps=null"],
}
# No manifest has the hash of these: they are for people to look at, or are made again where they differ.
UNLISTED = ("metrics.jsonl", "loss.png", ".lock", "reconstructions", "metrics", "generator.json")
STEPS = 8  # remedies that are followed, one after the other, before it counts as a circle


PLACES = (
    *("vqvae", "latents", "dit", "classifier", "samples/some", "samples/best", "eval/some", "students/1"),
    *("edits/some", "anagrams/some", "interpolations/some", "samples/latest", "samples/student"),
)


def held(run: Path) -> dict[str, Any]:
    """Return all that the stages of a run hold, by file."""
    found = {place: contents(run / place) for place in PLACES if (run / place).is_dir()}
    return {f"{place}/{name}": content for place, each in found.items() for name, content in each.items()}


class Run:
    """A copy of a run, its commands, and what it is to hold."""

    def __init__(self, root: Path, recipe: Path, expected: dict[str, Any], err: Callable[[], str]) -> None:
        self.root, self.recipe, self.expected, self.err = root, recipe, expected, err
        self.removed: list[Path] = []

    @property
    def folder(self) -> Path:
        return self.root / "tiny"

    def line(self, command: str) -> list[str]:
        if command == "verify":
            return [command, str(self.folder)]
        if command == "report":
            return [command, "tiny", "--runs-dir", str(self.root)]
        words = [str(self.folder / "students" / "1") if word == "students" else word for word in command.split()]
        how = {**COMMANDS, **MORE}[command]
        return [*words, "-c", str(self.recipe), "--runs-dir", str(self.root), *how]

    def hint(self, line: list[str]) -> str | None:
        """Run a command line. Returns what it advises, None where it succeeds."""
        self.err()
        with redirect_stdout(StringIO()):
            code = run([*line, "--quiet"] if "show" not in line else line)
        said = self.err()
        assert "Traceback" not in said and code in (0, 2, 3), (line, code, said)
        if code == 0:
            return None
        found = re.search(r"^ hint: (.*)", said, re.MULTILINE)
        assert found, f"{shlex.join(line)} fails without advice: {said}"
        return found[1]

    def run_to_success(self, line: list[str]) -> list[str]:
        """Run a command line, and do what it advises until it succeeds. Returns the advice."""
        followed: list[str] = []
        while (hint := self.hint(line)) is not None:
            assert hint not in followed, f"a circle: {followed}"
            followed.append(hint)
            assert len(followed) <= STEPS, followed
            self.follow(hint, line)
        return followed

    def follow(self, hint: str, line: list[str]) -> None:
        """Do what a remedy says, part by part."""
        for part in hint.split("; then "):
            what, _, rest = part.partition(": ")
            if what in RUNS:
                words, redirected, target = rest.partition(" > ")
                if redirected:
                    with redirect_stdout(StringIO()) as written:
                        assert run(shlex.split(words)[1:]) == 0
                    Path(*shlex.split(target)).write_text(written.getvalue())
                else:
                    self.run_to_success(shlex.split(words)[1:])
            elif what.startswith("remove "):
                self.remove(Path(what.removeprefix("remove ")))
            elif part.startswith("restore one, or remove "):
                self.remove(Path(part.removeprefix("restore one, or remove ").removesuffix(" to start over")))
            elif what == "go on with --replace":
                self.run_to_success([*line, "--replace"])
            elif part.startswith("take its last state"):
                line[line.index("--checkpoint") : line.index("--checkpoint") + 2] = []
            elif part.startswith("give the same settings, another --label"):  # Samples of the state that is gone.
                line[line.index("--label") + 1] = "another"
            else:
                pytest.fail(f"no test follows the remedy {part!r}")
            assert not unknown(part)

    def remove(self, path: Path) -> None:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self.removed.append(path)

    def check(self) -> None:
        """See that the run is what it was, but for what a remedy had removed and nothing needs."""
        found = held(self.folder)
        gone = [path.relative_to(self.folder).as_posix() for path in self.removed]
        for name, content in self.expected.items():
            if name.endswith(f"/{RECIPE}"):
                continue  # One that was written again says the same with other words: `verify` compares it.
            if not any(name == each or name.startswith(f"{each}/") for each in gone):
                assert name in found and found[name] == content, f"{name} is not what it was"
        assert self.hint(["verify", str(self.folder)]) is None


@pytest.fixture(scope="module")
def whole(trained: Pipeline, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps a best state, with samples of it, and an evaluation."""
    root = trained.copy(tmp_path_factory.mktemp("remedies")).runs_dir
    shutil.rmtree(root / "tiny" / "dit")
    made = Run(root, recipe, {}, str)
    for command in ("train-dit", "sample", "sample --checkpoint best", "eval"):
        assert run([*made.line(command), "--quiet"]) == 0
    return root


@pytest.fixture(scope="module")
def with_more(whole: Path, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run with a student, edits, and samples of the student and of the newest checkpoint."""
    root = Path(shutil.copytree(whole, tmp_path_factory.mktemp("more") / "runs"))
    made = Run(root, recipe, {}, str)
    for command in MORE:
        assert run([*made.line(command), "--quiet"]) == 0, command
    return root


def copier(whole: Path, recipe: Path, at: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], Run]:
    expected, count = held(whole / "tiny"), iter(range(10**6))

    def copy() -> Run:
        return Run(shutil.copytree(whole, at / str(next(count))), recipe, expected, lambda: capsys.readouterr().err)

    return copy


@pytest.fixture
def copies(whole: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[], Run]:
    return copier(whole, recipe, tmp_path, capsys)


def harm(folder: Path, random: np.random.Generator) -> Path:
    """Damage a file that is listed in a manifest, or the manifest, or the identity, or a checkpoint."""
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path.name not in UNLISTED]
    previews = {path for path in paths if path.parent.name == "samples" and path.parent.parent != folder}
    paths = [path for path in paths if path.parent.name not in UNLISTED and path not in previews]
    path = paths[int(random.integers(len(paths)))]
    content = bytearray(path.read_bytes())
    kind = random.choice(["flip", "cut", "delete", "schema"])
    if kind == "schema" and path.name == MANIFEST:
        path.write_bytes(bytes(content).replace(b'"schema": 1', b'"schema": 3'))
    elif kind == "delete":
        path.unlink()
    elif kind == "cut":
        path.write_bytes(content[: int(random.integers(len(content)))])
    else:
        content[int(random.integers(len(content)))] ^= 1 << int(random.integers(8))
        path.write_bytes(content)
    return path


@pytest.mark.promise("R26", quick=3, full=150)
def test_whatever_is_damaged_the_advice_of_every_command_mends_it_and_loses_nothing(
    trials: Trials, copies: Callable[[], Run]
) -> None:
    mends_whatever_is_damaged(trials, copies, COMMANDS)


@pytest.mark.slow
@pytest.mark.promise("R26", quick=3, full=100)
def test_of_students_edits_and_newest_checkpoints_too(
    trials: Trials, with_more: Path, recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mends_whatever_is_damaged(trials, copier(with_more, recipe, tmp_path, capsys), [*COMMANDS, *MORE])


def mends_whatever_is_damaged(trials: Trials, copies: Callable[[], Run], commands: Iterable[str]) -> None:
    for random in trials:
        copy = copies()
        path = harm(copy.folder, random)
        command = str(random.choice([*commands, "report"]))
        print(path.relative_to(copy.root), command)  # shown with a failure
        for line in (copy.line(command), copy.line("verify")):
            copy.run_to_success(line)
        copy.check()
        shutil.rmtree(copy.root)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.promise("R26")
@pytest.mark.parametrize("name", ["final/model.safetensors", "final/config.json", MANIFEST])
def test_a_finished_training_that_is_damaged_is_mended_from_its_newest_checkpoint(
    name: str, copies: Callable[[], Run]
) -> None:
    copy = copies()
    folder = copy.folder / "dit"
    saved = sorted((folder / checkpoint.FOLDER).rglob("*"))
    times = [path.stat().st_mtime_ns for path in saved]
    flip(folder / name)
    (advice,) = copy.run_to_success(["verify", str(folder)])
    assert advice.startswith("mend it: ldm train-dit -c ") and "--replace" not in advice
    assert [path.stat().st_mtime_ns for path in saved] == times, "no step was taken again"
    copy.check()


@pytest.mark.promise("R26")
@pytest.mark.parametrize("name", ["final/model.safetensors", MANIFEST])
def test_a_best_state_that_lost_a_file_is_named_and_the_training_is_whole_without_it(
    name: str, copies: Callable[[], Run]
) -> None:
    copy = copies()
    path = copy.folder / "dit" / "best"
    (path / name).unlink()
    advice = copy.run_to_success(["verify", str(copy.folder)])
    assert advice[0].startswith(f"remove {path}: ") and not path.exists()
    copy.check()


@pytest.mark.promise("R26")
@pytest.mark.parametrize("name", [MANIFEST, IDENTITY])
def test_samples_with_the_name_of_a_state_are_no_state(name: str, copies: Callable[[], Run]) -> None:
    copy = copies()
    path = copy.folder / "samples" / "best"
    flip(path / name)
    (advice,) = copy.run_to_success(["verify", str(path)])
    assert advice.startswith("mend it: ldm sample ")
    copy.check()


@pytest.mark.promise("R26")
def test_a_damaged_schema_number_is_damage_and_a_newer_one_is_not(copies: Callable[[], Run]) -> None:
    copy = copies()
    path = copy.folder / "dit" / MANIFEST
    path.write_bytes(path.read_bytes().replace(b'"schema": 1', b'"schema": 3'))
    hint = copy.hint(["sample", *copy.line("sample")[1:-4], "--label", "new"])
    assert hint is not None and hint.startswith("mend it: ldm train-dit")
    copy.follow(hint, [])
    copy.check()
    manifest = {**files.read_json(path), "schema": 3}
    del manifest["manifest_sha256"]
    files.write_json(path, files.sealed(manifest, "manifest_sha256"))
    for line in (copy.line("train-dit"), [*copy.line("train-dit"), "--replace"], ["verify", str(copy.folder)]):
        assert "upgrade ldm" in str(copy.hint(line))


@pytest.mark.promise("R26")
def test_a_damaged_best_state_sends_nobody_in_a_circle(copies: Callable[[], Run]) -> None:
    copy = copies()
    flip(copy.folder / "dit" / "best" / "final" / "model.safetensors")
    line = [*copy.line("sample --checkpoint best")[:-4], "--label", "again", "--num", "1"]
    first, second = copy.run_to_success(line)
    assert first.startswith(f"remove {copy.folder / 'dit' / 'best'}: ") and second.startswith("take its last state")
    assert "--checkpoint" not in line and (copy.folder / "samples" / "again" / MANIFEST).is_file()
    shutil.rmtree(copy.folder / "samples" / "again")
    shutil.rmtree(copy.folder / "samples" / "best")  # which was drawn of it
    copy.removed.append(copy.folder / "samples" / "best")
    copy.check()


@pytest.mark.promise("R26")
@pytest.mark.parametrize("chosen", ["the same settings", "another --label", "--replace"])
def test_of_an_occupied_label_each_way_out_leads_out(chosen: str, copies: Callable[[], Run]) -> None:
    copy = copies()
    line = copy.line("sample")
    other = [*line[:-1], "2"]
    hint = copy.hint(other)
    assert hint == "give the same settings, another --label, or --replace to start over"
    ways = {
        "the same settings": line,
        "another --label": [*other, "--label", "other"],
        "--replace": [*other, "--replace"],
    }
    assert copy.hint(ways[chosen]) is None
    kept = chosen != "--replace"
    assert kept == (contents(copy.folder / "samples" / "some") == contents_at(copy.expected, "samples/some/"))


def contents_at(expected: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): content for name, content in expected.items() if name.startswith(prefix)}


@pytest.mark.promise("R26")
def test_an_identity_that_was_lost_half_way_costs_no_step(copies: Callable[[], Run]) -> None:
    copy = copies()
    folder = copy.folder / "dit"
    (folder / MANIFEST).unlink()
    (folder / "identity.json").write_text("{")
    times = {path: path.stat().st_mtime_ns for path in (folder / checkpoint.FOLDER).rglob("*")}
    (advice,) = copy.run_to_success(copy.line("train-dit"))
    assert advice.startswith("go on with --replace")
    assert {path: path.stat().st_mtime_ns for path in times} == times
    copy.check()


@pytest.mark.promise("R26")
def test_a_classifier_of_one_class_and_an_evaluation_without_one_do_not_send_each_other_for_it(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["train-classifier", "--data", str(images / "blue"), "--image-size", "16", "--runs-dir", str(tmp_path)]
    hint = Run(tmp_path, tmp_path, {}, lambda: capsys.readouterr().err).hint(line)
    assert hint == (
        "give labelled images, or evaluate with --features inception; a recipe of captions has"
        " `without: [train-classifier]`"
    )


@pytest.mark.promise("R26")
@pytest.mark.parametrize("remedy", ["make it again with ldm train-dit", "remove /runs/x if you like", "then --replace"])
def test_a_remedy_that_no_test_follows_is_noticed(remedy: str) -> None:
    assert unknown(remedy) == [remedy]
    assert not unknown("mend it: ldm encode -c a; then remove /x/y: it is made again") and not unknown("shrink it")
