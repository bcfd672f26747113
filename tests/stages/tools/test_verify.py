"""`ldm verify` finds whatever is wrong with a run, and the command that it names mends it."""

import shlex
import shutil
from collections.abc import Callable
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from ldm.cli.main import run
from ldm.core import files
from ldm.core.errors import DataError
from ldm.core.files import sha256_file
from ldm.core.progress import Outcome, Silent
from ldm.core.runs.lock import occupy
from ldm.core.runs.pieces import Pieces
from ldm.core.runs.run import MANIFEST
from ldm.stages.configs.folders import Verify
from ldm.stages.tools import verify
from tests.support.pipeline_run import Heard, Pipeline


def verified(path: Path, progress: Any = None) -> Outcome:
    return verify.run(Verify(path=path), progress or Silent())


def problems(path: Path) -> tuple[list[str], str]:
    """Return the warnings of a verification that fails, and the remedy."""
    heard = Heard()
    with pytest.raises(DataError, match="is not whole") as caught:
        verified(path, heard)
    return heard.warnings, str(caught.value.remedy)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    # Of a recipe, a setting that identifies the run: others may differ from what was recorded.
    content[content.index(b"lr:") if path.suffix == ".yaml" else len(content) // 2] ^= 4
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_a_run_is_whole_and_so_is_everything_in_it(copied: Pipeline) -> None:
    copied.run("sample", num=8, label="some")
    copied.run("eval", samples="some")
    outcome = verified(copied.runs_dir)
    assert outcome.verdict == "is whole"
    assert outcome.summary["verified"] == "vqvae, latents, dit, classifier, samples, eval"
    inside = ["vqvae", "vqvae/final", "dit/checkpoints", "dit/checkpoints/0000000064", "samples", "eval/some"]
    for place in inside:
        assert verified(copied.folder / place).verdict == "is whole", place
    assert run(["verify", str(copied.folder), "--quiet"]) == 0


@pytest.mark.parametrize("harm", [flip, cut, Path.unlink])
def test_harm_to_any_file_is_found_and_named(copied: Pipeline, harm: Callable[[Path], None]) -> None:
    copied.run("sample", num=1, label="one")
    harmed = [
        *("vqvae/final/model.safetensors", "vqvae/final/config.json", "vqvae/identity.json", "latents/val-000000.tar"),
        *("latents/index.safetensors", "latents/shard-000002.tar", "dit/config.yaml", "dit/manifest.json"),
        *(
            "dit/checkpoints/0000000032/ema.safetensors",
            "dit/checkpoints/0000000064/state.json",
            "samples/one/000001.png",
        ),
        "classifier/checkpoints/0000000128/manifest.json",
    ]
    for name in harmed:
        path = copied.folder / name
        whole = path.read_bytes()
        harm(path)
        warnings, remedy = problems(copied.folder / name.split("/")[0])
        path.write_bytes(whole)
        named = path.parent if path.name == MANIFEST and harm is Path.unlink else path
        assert any(str(named) in warning for warning in warnings), (name, warnings)
        assert remedy
    assert verified(copied.folder).verdict == "is whole"


def followed(remedy: str) -> list[str]:
    """Do what a remedy says, part by part. Returns the commands that were run."""
    commands = []
    for part in remedy.split("; then "):
        what, _, rest = part.partition(": ")
        if what.startswith("remove "):
            gone = Path(what.removeprefix("remove "))
            shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
            continue
        assert what in ("make it again", "mend it", "finish it", "write it again"), part
        line, redirected, target = rest.partition(" > ")
        with redirect_stdout(StringIO()) as said:
            assert run([*shlex.split(line)[1:], *([] if redirected else ["--quiet"])]) == 0
        if redirected:
            Path(*shlex.split(target)).write_text(said.getvalue())
        commands.append(line)
    return commands


# A file of each kind, the harm, and the commands that mend it: none where it is removed.
REMEDIES: dict[str, tuple[str, Callable[[Path], None], list[str]]] = {
    "weights": ("vqvae/final/model.safetensors", flip, ["train-vqvae"]),
    "a network's settings": ("classifier/final/config.json", flip, ["train-classifier"]),
    "a shard": ("latents/shard-000001.tar", flip, ["encode"]),
    "the index of shards": ("latents/index.safetensors", cut, ["encode"]),
    "an identity": ("latents/identity.json", cut, ["encode"]),
    "a missing identity": ("classifier/identity.json", Path.unlink, ["train-classifier"]),
    "a manifest": ("dit/manifest.json", flip, ["train-dit"]),
    "a missing manifest": ("dit/manifest.json", Path.unlink, ["train-dit"]),
    "a recipe": ("dit/config.yaml", cut, ["config show train-dit"]),
    "a missing recipe": ("vqvae/config.yaml", Path.unlink, ["config show train-vqvae"]),
    "a recipe of samples": ("samples/some/config.yaml", cut, ["config show sample"]),
    "a recipe of numbers": ("eval/some/config.yaml", cut, ["config show eval"]),
    "a checkpoint": ("dit/checkpoints/0000000064/ema.safetensors", flip, []),
    "an image": ("samples/some/000001.png", flip, ["sample"]),
    "numbers": ("eval/some/metrics.json", flip, ["eval"]),
}


@pytest.mark.parametrize("kind", REMEDIES)
def test_the_commands_that_are_named_mend_the_run(copied: Pipeline, kind: str) -> None:
    name, harm, wanted = REMEDIES[kind]
    if name.startswith(("samples", "eval")):
        copied.run("sample", num=4, label="some")
    if name.startswith("eval"):
        copied.run("eval", samples="some")
    harm(copied.folder / name)
    _, remedy = problems(copied.folder)
    commands = followed(remedy)
    assert len(commands) == len(wanted)
    assert all(line.startswith(f"ldm {start} ") for line, start in zip(commands, wanted, strict=True)), commands
    assert verified(copied.folder).verdict == "is whole"


def test_a_recipe_written_again_makes_the_same_stage_and_all_else_stays(copied: Pipeline) -> None:
    """The remedy for a recipe costs no training, and what needs the recipe to be made again comes after it."""
    recipe, weights = copied.folder / "dit" / "config.yaml", copied.folder / "dit" / "final" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    recipe.unlink()
    followed(problems(copied.folder)[1])
    assert weights.stat().st_mtime_ns == before
    assert run(["train-dit", "-c", str(recipe), "--quiet"]) == 0 and weights.stat().st_mtime_ns == before
    recipe.unlink()
    flip(weights)
    commands = followed(problems(copied.folder)[1])
    assert [line.split()[1] for line in commands] == ["config", "train-dit"]
    assert verified(copied.folder).verdict == "is whole"


def test_a_training_that_goes_on_with_moved_images_is_whole(copied: Pipeline, tmp_path: Path) -> None:
    """Its identity names the place where it began, its manifest the one where it ended."""
    vqvae = copied.folder / "vqvae"
    before = (vqvae / "identity.json").read_bytes()
    (vqvae / MANIFEST).unlink()
    moved = shutil.copytree(copied.images, tmp_path / "moved")
    copied.run("train-vqvae", data__source=str(moved))
    assert (vqvae / "identity.json").read_bytes() == before
    assert files.read_json(vqvae / MANIFEST)["config"]["data"]["source"] == str(moved)
    assert verified(copied.folder).verdict == "is whole"


@pytest.mark.parametrize("harm", [cut, Path.unlink])
def test_an_identity_is_written_again_without_the_work(copied: Pipeline, harm: Callable[[Path], None]) -> None:
    identity, weights = copied.folder / "dit" / "identity.json", copied.folder / "dit" / "final" / "model.safetensors"
    before, whole = weights.stat().st_mtime_ns, identity.read_bytes()
    harm(identity)
    followed(problems(copied.folder)[1])
    assert weights.stat().st_mtime_ns == before and identity.read_bytes() == whole
    assert verified(copied.folder).verdict == "is whole"


def test_a_network_alone_is_mended_by_the_stage_that_it_is_of(copied: Pipeline) -> None:
    for stage in ("vqvae", "dit", "classifier"):
        flip(copied.folder / stage / "final" / "model.safetensors")
        followed(problems(copied.folder / stage / "final")[1])
        assert verified(copied.folder / stage / "final").verdict == "is whole"


def test_the_manifest_of_what_is_no_stage_is_no_recipe(copied: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    newest = copied.folder / "dit" / "checkpoints" / "0000000064" / MANIFEST
    assert run(["train-dit", "-c", str(newest)]) == 2
    assert f"{newest} is not the manifest of a stage" in capsys.readouterr().err
    flip(copied.folder / "dit" / MANIFEST)
    assert run(["config", "show", "train-dit", "-c", str(copied.folder / "dit" / MANIFEST)]) == 3


def test_stages_that_no_longer_fit_are_named_with_what_mends_them(copied: Pipeline) -> None:
    copied.run("train-vqvae", train__images=8, replace=True)
    warnings, remedy = problems(copied.folder)
    assert [warning.split(" was made with another ")[0] for warning in warnings] == [
        str(copied.folder / "latents"),
        str(copied.folder / "dit"),
    ]
    assert remedy.index("ldm encode") < remedy.index("ldm train-dit")
    shutil.rmtree(copied.folder / "vqvae")
    warnings, _ = problems(copied.folder / "dit")
    assert len(warnings) == 1 and "vqvae, which is gone" in warnings[0]


def test_a_run_that_was_moved_is_whole_and_its_remedies_name_the_new_place(copied: Pipeline) -> None:
    moved = copied.folder.rename(copied.runs_dir / "else where")
    assert verified(moved).verdict == "is whole"
    flip(moved / "latents" / "shard-000000.tar")
    _, remedy = problems(moved)
    assert run([*shlex.split(remedy.removeprefix("mend it: "))[1:], "--quiet"]) == 0
    assert verified(moved).verdict == "is whole" and not copied.folder.exists()


def test_what_is_unfinished_is_no_whole_but_its_pieces_may_be(copied: Pipeline) -> None:
    latents = copied.folder / "latents"
    (latents / MANIFEST).unlink()
    Pieces(latents).add({path.name: sha256_file(path) for path in latents.glob("*.tar")})
    warnings, remedy = problems(latents)
    assert len(warnings) == 1 and "latents is unfinished" in warnings[0]
    assert remedy.startswith("finish it: ldm encode")
    cut(latents / "shard-000001.tar")
    warnings, same = problems(latents)
    assert len(warnings) == 2 and "shard-000001.tar is damaged" in warnings[1] and same == remedy
    followed(remedy)
    assert verified(latents).verdict == "is whole"


def test_what_is_being_written_is_not_judged(copied: Pipeline) -> None:
    with occupy(copied.folder / "dit"):
        warnings, _ = problems(copied.folder)
    assert len(warnings) == 1 and "dit is being written by process" in warnings[0]
    verified(copied.folder)


def test_shards_that_do_not_hold_what_the_manifest_counts_are_named(copied: Pipeline) -> None:
    """All hashes agree, and still the folder is not what it says: encode itself would have been at fault."""
    from ldm.core import files

    path = copied.folder / "latents" / MANIFEST
    manifest = files.read_json(path)
    del manifest["manifest_sha256"]
    manifest["facts"]["samples"]["train"] += 1
    files.write_json(path, {**manifest, "manifest_sha256": files.sha256_json(manifest)})
    warnings, _ = problems(copied.folder / "latents")
    assert len(warnings) == 1 and "train samples" in warnings[0] and "index.safetensors" in warnings[0]


def test_a_place_where_nothing_of_ours_lies_is_refused(tmp_path: Path, images: Path) -> None:
    for path, said in ((images, "holds nothing that ldm wrote"), (tmp_path / "gone", "does not exist")):
        with pytest.raises(DataError, match=said):
            verified(path)


def test_the_exit_code_and_the_lines_say_what_is_wrong(copied: Pipeline, capsys: pytest.CaptureFixture[str]) -> None:
    flip(copied.folder / "latents" / "shard-000000.tar")
    assert run(["verify", str(copied.folder), "--quiet"]) == 3
    shown = capsys.readouterr().err.splitlines()
    assert shown[0].startswith("warning: ") and "shard-000000.tar is damaged" in shown[0]
    assert shown[1].startswith("error: ") and "is not whole" in shown[1]
    assert shown[2].startswith(" hint: mend it: ldm encode")
    assert run(["verify"]) == 2
    assert "ldm verify needs PATH" in capsys.readouterr().err
