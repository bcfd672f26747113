"""A stage's directory is refused when it is not what it should be, and says how to mend it."""

import fcntl
import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ldm.core import files
from ldm.core.errors import ConfigError, DataError, NewerFormat
from ldm.core.runs import provenance
from ldm.core.runs.claim import claim, settings_of
from ldm.core.runs.lock import LOCK, occupy, owner
from ldm.core.runs.pieces import Pieces, owner_of
from ldm.core.runs.roles import DENOISER, role_of
from ldm.core.runs.run import Identity, StageRun, check_producer, open_run

ROOT = Path(__file__).parents[3]
COMMAND = "ldm encode -c runs/a/latents/config.yaml"
IDENTITY = Identity(
    kind="anything",
    command=COMMAND,
    config={"seed": 0, "data": {"image_size": 64, "source": "photos"}},
    inputs={"autoencoder": {"path": "../vqvae", "fingerprint": "f0"}},
    recipe="encode:\n  seed: 0\n",
)

HOLDS_THE_LOCK = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ldm.core.runs.lock import occupy
with occupy(Path(sys.argv[2])):
    print("ready", flush=True)
    time.sleep(60)
"""

STARTS_AND_SAYS_HOW_IT_WENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ldm.core.runs.lock import occupy
from ldm.core.errors import ConfigError
sys.stdin.readline()
start = time.monotonic()
try:
    with occupy(Path(sys.argv[2])):
        print("owner", flush=True)
        sys.stdin.readline()
except ConfigError as error:
    print(f"{error.exit_code} {time.monotonic() - start:.3f} {error.message}", flush=True)
"""


def finished(path: Path, identity: Identity = IDENTITY, content: bytes = b"latents") -> StageRun:
    with occupy(path):
        work = claim(path, identity)
        (path / "final").mkdir(exist_ok=True)
        files.write_bytes(path / "final" / "shard.tar", content)
        return work.commit(["final/shard.tar"], {"count": 3, "mean": (0.1, 0.2)})


def changed(**settings: Any) -> Identity:
    return replace(IDENTITY, config={**IDENTITY.config, **settings})


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_what_was_committed_is_what_is_opened(tmp_path: Path) -> None:
    written = finished(tmp_path / "latents")
    opened = open_run(tmp_path / "latents", role_of("anything"), COMMAND)
    assert opened == written
    assert opened.metadata == {"count": 3, "mean": [0.1, 0.2]}
    assert (opened.kind, opened.config, opened.command) == ("anything", IDENTITY.config, COMMAND)
    opened.verify()
    opened.verify("final/shard.tar")


def test_the_manifest_says_what_made_the_directory(tmp_path: Path) -> None:
    manifest = finished(tmp_path).manifest
    provenance = manifest["provenance"]
    assert provenance["argv"] == sys.argv
    assert {"ldm", "python", "packages", "platform", "git", "created"} <= provenance.keys()
    assert manifest["inputs"] == IDENTITY.inputs
    assert (tmp_path / "config.yaml").read_text() == IDENTITY.recipe


def test_the_fingerprint_depends_on_the_outputs_and_not_on_when_they_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = finished(tmp_path / "a")
    monkeypatch.setattr(time, "strftime", lambda *_: "another time")
    second = finished(tmp_path / "b")
    assert first.manifest["provenance"] != second.manifest["provenance"]
    assert first.fingerprint == second.fingerprint
    assert finished(tmp_path / "c", content=b"others").fingerprint != first.fingerprint


def test_a_missing_directory_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_run(tmp_path / "latents", role_of("anything"), "ldm encode --name a")
    assert str(tmp_path / "latents") in caught.value.message
    assert caught.value.remedy == "make it: ldm encode --name a"


def test_a_folder_that_no_stage_made_is_not_said_to_be_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    for path in (tmp_path, tmp_path / "config.json"):
        with pytest.raises(DataError) as caught:
            open_run(path, role_of("anything"), "ldm encode")
        assert caught.value.message == f"{path} was not written by ldm: it has no manifest.json"


def test_an_unfinished_directory_is_refused_with_the_command_that_finishes_it(tmp_path: Path) -> None:
    with occupy(tmp_path):
        claim(tmp_path, IDENTITY)
    with pytest.raises(DataError) as caught:
        open_run(tmp_path, role_of("anything"), "ldm encode --name a")
    assert str(tmp_path) in caught.value.message and "unfinished" in caught.value.message
    assert caught.value.remedy == "finish it: ldm encode --name a"


def test_a_directory_of_another_kind_or_schema_is_refused(tmp_path: Path) -> None:
    finished(tmp_path)
    with pytest.raises(
        DataError, match=r"holds 'anything', not 'dit' or 'denoiser' or 'students' \(make one: ldm train-dit\)"
    ) as caught:
        open_run(tmp_path, DENOISER, "ldm train-dit")
    assert str(tmp_path) in caught.value.message
    manifest = files.read_json(tmp_path / "manifest.json")
    files.write_json(tmp_path / "manifest.json", {**manifest, "schema": 99})
    with pytest.raises(
        DataError, match=r"manifest\.json is damaged: it differs from its own sha256 \(mend it: ldm encode\)"
    ):
        open_run(tmp_path, role_of("anything"), "ldm encode")
    del manifest["manifest_sha256"]
    files.write_json(tmp_path / "manifest.json", files.sealed({**manifest, "schema": 99}, "manifest_sha256"))
    with pytest.raises(NewerFormat, match=r"manifest\.json has schema 99; this ldm reads 1 \(upgrade ldm\)"):
        open_run(tmp_path, role_of("anything"), "ldm encode")
    for replaced in (False, True):
        with occupy(tmp_path), pytest.raises(NewerFormat):
            claim(tmp_path, IDENTITY, replaced)


def test_a_flipped_bit_anywhere_in_a_manifest_is_noticed(tmp_path: Path) -> None:
    finished(tmp_path)
    path = tmp_path / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 23):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(DataError) as caught:
            open_run(tmp_path, role_of("anything"), "ldm encode")
        assert str(tmp_path) in caught.value.message and caught.value.remedy


@pytest.mark.parametrize(
    "wrong",
    [
        {"facts": None},
        {"files": []},
        {"command": 3},
        {"files": {"../outside": {"bytes": 1, "sha256": ""}}},
        {"files": {"/etc/passwd": {"bytes": 1, "sha256": ""}}},
        {"files": {"a": 3}},
        {"inputs": {"data": None}},
        {"inputs": {"data": {"fingerprint": 3}}},
        {"command": "ldm encode; rm -r x"},
        {"provenance": {"created": 1}},
        {"kind": "latents", "facts": {"class_names": ["cat"], "latent_shape": [4, 8]}},
    ],
)
def test_a_manifest_with_the_right_hash_of_wrong_things_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    finished(tmp_path)
    manifest = files.read_json(tmp_path / "manifest.json")
    del manifest["manifest_sha256"]
    manifest |= wrong
    files.write_json(tmp_path / "manifest.json", {**manifest, "manifest_sha256": files.sha256_json(manifest)})
    with pytest.raises(DataError, match=r"manifest\.json is damaged: .*\(mend it: ldm encode\)"):
        open_run(tmp_path, role_of(manifest["kind"]), "ldm encode")


@pytest.mark.parametrize("damage", ["missing", "longer", "flipped"])
def test_a_damaged_output_is_refused_with_the_command_that_mends_it(tmp_path: Path, damage: str) -> None:
    artifact = finished(tmp_path)
    shard = tmp_path / "final" / "shard.tar"
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(b"latents!" if damage == "longer" else b"latentS")
    with pytest.raises(DataError) as caught:
        artifact.verify()
    assert str(shard) in caught.value.message
    assert caught.value.remedy == f"mend it: {COMMAND}"


@pytest.mark.parametrize("replaced", [False, True])
def test_the_same_command_opens_a_damaged_directory_again_and_keeps_what_is_whole(
    tmp_path: Path, replaced: bool
) -> None:
    finished(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for name, content, named in (("final/shard.tar", b"latentS", "shard.tar"), ("manifest.json", b"{}", "own sha256")):
        (tmp_path / name).write_bytes(content)
        heard: list[str] = []
        with occupy(tmp_path):
            with pytest.raises(ConfigError, match="seed: 0 → 1"):
                claim(tmp_path, changed(seed=1))
            assert not claim(tmp_path, IDENTITY, replaced, heard.append).complete
        assert len(heard) == 1 and named in heard[0] and str(tmp_path / name) in heard[0]
        assert (tmp_path / "checkpoints").is_dir() and not (tmp_path / "manifest.json").exists()
        finished(tmp_path).verify()


def test_a_setting_without_a_value_whose_name_is_damaged_is_mended_in_a_complete_directory(tmp_path: Path) -> None:
    unset, path = changed(cfg_channels=None), tmp_path / "identity.json"
    finished(tmp_path, unset)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"cfg_channels"', b'"#fg_channels"'))
    assert path.read_bytes() != whole
    with occupy(tmp_path):
        assert claim(tmp_path, unset).complete
    assert path.read_bytes() == whole


def test_what_is_whole_of_a_damaged_directory_counts_as_finished_pieces(tmp_path: Path) -> None:
    with occupy(tmp_path):
        work = claim(tmp_path, IDENTITY)
        for name in ("a", "b"):
            (tmp_path / name).write_text(name)
        work.commit(["a", "b"], {})
        (tmp_path / "a").write_text("A")
        claim(tmp_path, IDENTITY)
    assert Pieces(tmp_path).whole(["a", "b"], lambda message: None) == [False, True]


def test_a_producer_that_changed_since_is_refused(tmp_path: Path) -> None:
    source = replace(IDENTITY, kind="vqvae", command="ldm train-vqvae", inputs={})
    vqvae = finished(tmp_path / "vqvae", source)
    inputs = {"autoencoder": {"path": "../vqvae", "fingerprint": vqvae.fingerprint}}
    latents = finished(tmp_path / "latents", replace(IDENTITY, inputs=inputs))
    check_producer(latents, "autoencoder", vqvae)

    shutil.rmtree(tmp_path / "vqvae")
    retrained = finished(tmp_path / "vqvae", source, b"other weights")
    with pytest.raises(DataError) as caught:
        check_producer(latents, "autoencoder", retrained)
    assert str(tmp_path / "latents") in caught.value.message and str(tmp_path / "vqvae") in caught.value.message
    assert caught.value.remedy == f"make it again: {COMMAND} --replace"
    with pytest.raises(DataError):
        check_producer(latents, "an input it never had", vqvae)


def test_the_same_settings_go_on_and_find_a_finished_directory_complete(tmp_path: Path) -> None:
    with occupy(tmp_path):
        work = claim(tmp_path, IDENTITY)
        assert work == replace(StageRun(tmp_path, "anything", COMMAND), started=work.started) and not work.complete
        (tmp_path / "shard-000000.tar").write_bytes(b"done before")
    with occupy(tmp_path):
        moved = {"autoencoder": {"path": "/elsewhere", "fingerprint": "f0"}}
        assert not claim(tmp_path, replace(IDENTITY, inputs=moved, command="other words")).complete
        assert (tmp_path / "shard-000000.tar").read_bytes() == b"done before"
    finished(tmp_path)
    before = contents(tmp_path)
    for again in (False, True):
        with occupy(tmp_path):
            assert claim(tmp_path, IDENTITY, again).complete
    after = contents(tmp_path)
    del before[".lock"], after[".lock"]
    assert before == after


def test_a_directory_without_any_work_in_it_yet_takes_other_settings(tmp_path: Path) -> None:
    for seed in (1, 2):
        with occupy(tmp_path):
            assert not claim(tmp_path, changed(seed=seed)).complete
        assert files.read_json(tmp_path / "identity.json")["config"]["seed"] == seed
    assert set(contents(tmp_path)) == {".lock", "identity.json", "config.yaml"}


def test_other_settings_or_inputs_are_refused_with_what_differs(tmp_path: Path) -> None:
    with occupy(tmp_path):
        claim(tmp_path, IDENTITY)
    (tmp_path / "metrics.jsonl").touch()
    before = contents(tmp_path)
    other = Identity(
        "anything",
        COMMAND,
        {"seed": 1, "data": {"image_size": 64, "source": "photos"}, "new": True},
        {"autoencoder": {"path": "../vqvae", "fingerprint": "f1"}},
        "",
    )
    with pytest.raises(ConfigError) as caught:
        claim(tmp_path, other)
    message = caught.value.message
    assert message.startswith(str(tmp_path)) and caught.value.exit_code == 2
    listed = "new: None → True; seed: 0 → 1; autoencoder: other contents"
    assert message.endswith(f": {listed}")
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("value", "refused"), [("white", False), ("black", True)])
def test_a_directory_from_before_a_setting_existed_has_its_default(tmp_path: Path, value: str, refused: bool) -> None:
    finished(tmp_path / "latents")
    newer = replace(
        IDENTITY,
        config={"seed": 0, "data": {"image_size": 64, "source": "photos", "background": value}},
        defaults={"seed": 7, "data": {"image_size": 32, "source": None, "background": "white"}},
    )
    if refused:
        with pytest.raises(ConfigError, match=r"data\.background: 'white' → 'black'"):
            claim(tmp_path / "latents", newer)
    else:
        assert claim(tmp_path / "latents", newer).complete


def test_a_setting_that_no_longer_matters_may_have_any_value(tmp_path: Path) -> None:
    data = {"image_size": 64, "source": "photos", "threads": 8}
    finished(tmp_path / "latents", replace(IDENTITY, config={"seed": 0, "data": data, "device": "cpu"}))
    newer = replace(IDENTITY, incidental=frozenset({"data.threads", "device"}))
    assert claim(tmp_path / "latents", newer).complete
    with pytest.raises(ConfigError, match=r"inputs: data\.threads: 8 → None"):
        claim(tmp_path / "latents", replace(newer, incidental=frozenset({"device"})))


def test_the_same_contents_at_another_place_are_the_same_run(tmp_path: Path) -> None:
    finished(tmp_path / "latents", changed(source="T"))
    moved = replace(changed(source="/data/T/"), places=frozenset({"source"}))
    assert claim(tmp_path / "latents", moved).complete
    other = replace(moved, inputs={name: {**entry, "fingerprint": "other"} for name, entry in moved.inputs.items()})
    with pytest.raises(ConfigError, match="other contents"):
        claim(tmp_path / "latents", other)


def at(source: str) -> Identity:
    return replace(changed(data={"image_size": 64, "source": source}), places=frozenset({"data.source"}))


def test_what_pieces_and_checkpoints_record_does_not_depend_on_places(tmp_path: Path) -> None:
    folders = [tmp_path / "here", tmp_path / "there"]
    for folder in folders:
        with occupy(folder):
            claim(folder, at(folder.name))
    here, there = map(owner_of, folders)
    assert here is not None and here == there
    assert settings_of(files.read_json(folders[0] / "identity.json")) == at("here").config


@pytest.mark.parametrize(("sound", "damaged"), [(b"here", b"hepe"), (b"source", b"sourcd")])
def test_damage_in_the_places_of_a_complete_directory_is_mended(tmp_path: Path, sound: bytes, damaged: bytes) -> None:
    finished(tmp_path, at("here"))
    identity = tmp_path / "identity.json"
    written = identity.read_bytes()
    before, named, after = written.partition(b'"places"')
    identity.write_bytes(before + named + after.replace(sound, damaged))
    assert identity.read_bytes() != written
    with occupy(tmp_path):
        assert claim(tmp_path, at("here")).complete
    assert identity.read_bytes() == written


def test_an_identity_from_before_places_were_set_apart_stays_and_is_written_again_as_it_was(tmp_path: Path) -> None:
    """The checkpoints of such a run record the hash of its settings and places together."""
    finished(tmp_path)
    identity, state = tmp_path / "identity.json", tmp_path / "checkpoints" / "0000000064" / "state.json"
    before = files.read_json(identity)
    del before["places"]
    files.write_json(identity, before)
    written, owner = identity.read_bytes(), owner_of(tmp_path)
    assert owner is not None
    state.parent.mkdir(parents=True)
    files.write_json(state, {"owner": owner.sha256})
    with occupy(tmp_path):
        assert claim(tmp_path, at("/elsewhere")).complete
        assert identity.read_bytes() == written
        identity.unlink()
        assert claim(tmp_path, at("/elsewhere")).complete
    assert identity.read_bytes() == written and owner_of(tmp_path) == owner


def test_replace_discards_a_stages_own_directory_and_nothing_beside_it(tmp_path: Path) -> None:
    finished(tmp_path / "latents")
    beside = finished(tmp_path / "vqvae")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "photo.jpg").write_bytes(b"jpg")
    (tmp_path / "latents" / "link").symlink_to(tmp_path / "precious")
    with occupy(tmp_path / "latents"):
        assert not claim(tmp_path / "latents", changed(seed=1), replace=True).complete
    assert set(contents(tmp_path / "latents")) == {".lock", "identity.json", "config.yaml"}
    assert files.read_json(tmp_path / "latents" / "identity.json")["config"]["seed"] == 1
    assert (tmp_path / "precious" / "photo.jpg").read_bytes() == b"jpg"
    beside.verify()


def test_files_that_no_stage_wrote_are_never_discarded(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"jpg")
    for again in (False, True):
        with occupy(tmp_path), pytest.raises(ConfigError, match="holds files that no stage wrote"):
            claim(tmp_path, IDENTITY, again)
    assert (tmp_path / "photo.jpg").read_bytes() == b"jpg"


def test_a_damaged_identity_is_refused_and_written_again_only_when_asked(tmp_path: Path) -> None:
    """The work stays: its pieces record whose they are, so that those of other settings are not adopted."""
    with occupy(tmp_path):
        claim(tmp_path, IDENTITY)
        (tmp_path / "a").write_text("a")
        Pieces(tmp_path).add({"a": files.sha256_file(tmp_path / "a")})
        for identity, whole in ((IDENTITY, True), (changed(seed=1), False)):
            (tmp_path / "identity.json").write_bytes(b"\x00")
            with pytest.raises(DataError, match=r"identity\.json is not valid JSON.*`replace`"):
                claim(tmp_path, identity)
            assert not claim(tmp_path, identity, replace=True).complete
            assert Pieces(tmp_path).whole(["a"], lambda message: None) == [whole]


@pytest.mark.parametrize("content", [None, b"\x00", b"{}"])
def test_an_identity_is_written_again_as_a_whole_manifest_says_it(tmp_path: Path, content: bytes | None) -> None:
    finished(tmp_path)
    whole = (tmp_path / "identity.json").read_bytes()
    (tmp_path / "identity.json").unlink() if content is None else (tmp_path / "identity.json").write_bytes(content)
    with occupy(tmp_path):
        with pytest.raises(ConfigError, match="seed: 0 → 1"):
            claim(tmp_path, changed(seed=1))
        assert claim(tmp_path, IDENTITY).complete
    assert (tmp_path / "identity.json").read_bytes() == whole


def test_a_manifest_of_others_makes_no_folder_ours(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"jpg")
    (tmp_path / "manifest.json").write_text('{"kind": "latents"}')
    with occupy(tmp_path), pytest.raises(ConfigError, match=r"holds 'latents', not .*: it is not replaced"):
        claim(tmp_path, IDENTITY, replace=True)
    assert (tmp_path / "photo.jpg").read_bytes() == b"jpg"


def test_what_another_kind_of_stage_made_is_never_replaced(tmp_path: Path) -> None:
    finished(tmp_path / "finished")
    with occupy(tmp_path / "begun"):
        claim(tmp_path / "begun", IDENTITY)
    held = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.name != LOCK}
    for name in ("finished", "begun"):
        for replaced in (False, True):
            with occupy(tmp_path / name), pytest.raises(ConfigError, match="is not replaced"):
                claim(tmp_path / name, replace(IDENTITY, kind="other"), replace=replaced)
    assert len(held) == 6 and all(path.read_bytes() == data for path, data in held.items())


def test_discarding_that_was_interrupted_anywhere_never_looks_finished(tmp_path: Path) -> None:
    """Stop `_clear` before each of its deletions, as a kill would, and look at what the next start makes of it."""
    for allowed in range(6):
        path = tmp_path / str(allowed)
        finished(path)
        deletions = itertools.count()

        def count(original: Any, deletions: Any = deletions, allowed: int = allowed) -> Any:
            def limited(*args: Any, **kwargs: Any) -> None:
                if next(deletions) == allowed:
                    raise KeyboardInterrupt
                original(*args, **kwargs)

            return limited

        with pytest.MonkeyPatch.context() as patch, occupy(path):
            patch.setattr(Path, "unlink", count(Path.unlink))
            patch.setattr(shutil, "rmtree", count(shutil.rmtree))
            try:
                claim(path, changed(seed=1), replace=True)
            except KeyboardInterrupt:
                pass
            else:
                assert allowed >= 4, "manifest, final, recipe and identity"
        with occupy(path):
            assert (path / "manifest.json").exists() == (allowed == 0)
            assert not claim(path, changed(seed=1), replace=True).complete
            assert set(contents(path)) == {".lock", "identity.json", "config.yaml"}


def test_leftovers_of_an_interrupted_start_do_not_stand_in_the_way(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-identity.json-0").touch()
    with occupy(tmp_path):
        claim(tmp_path, IDENTITY)
    assert set(contents(tmp_path)) == {".lock", "identity.json", "config.yaml"}


def test_a_second_process_is_refused_naming_the_owner_and_the_lock_dies_with_its_owner(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", HOLDS_THE_LOCK, str(ROOT), str(tmp_path / "new" / "dit")]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None and owner.stdout.readline() == "ready\n"
            start = time.monotonic()
            with pytest.raises(ConfigError) as caught, occupy(tmp_path / "new" / "dit"):
                pass
            assert time.monotonic() - start < 2
            assert f"dit is in use by process {owner.pid} on " in caught.value.message
            assert caught.value.exit_code == 2
        finally:
            owner.send_signal(signal.SIGKILL)
    with occupy(tmp_path / "new" / "dit"):
        text = (tmp_path / "new" / "dit" / ".lock").read_text()
    assert text.startswith(f"process {os.getpid()} on ")


def test_whoever_asks_who_writes_a_directory_stands_in_nobodys_way(tmp_path: Path) -> None:
    assert owner(tmp_path) is None
    with occupy(tmp_path):
        assert str(owner(tmp_path)).startswith(f"process {os.getpid()} on ")
    assert owner(tmp_path) is None
    with (tmp_path / LOCK).open() as looking:  # as `owner` does, caught in the act
        fcntl.flock(looking, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(looking, fcntl.LOCK_UN)).start()
        with occupy(tmp_path):
            pass


def test_of_several_that_start_at_once_one_runs_and_the_others_name_it(tmp_path: Path) -> None:
    arguments = [sys.executable, "-c", STARTS_AND_SAYS_HOW_IT_WENT, str(ROOT), str(tmp_path / "dit")]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    runs = [subprocess.Popen(arguments, text=True, **pipes) for _ in range(4)]
    try:
        for run in runs:
            assert run.stdin is not None
            run.stdin.write("go\n")
            run.stdin.flush()
        answers = [run.stdout.readline().strip() for run in runs if run.stdout is not None]
    finally:
        for run in runs:
            run.communicate("")
    assert answers.count("owner") == 1, answers
    owner = runs[answers.index("owner")].pid
    for answer in answers:
        if answer != "owner":
            code, seconds, message = answer.split(" ", 2)
            assert code == "2" and float(seconds) < 2
            assert f"in use by process {owner} on " in message


@pytest.mark.parametrize("place", ["file", "file/below", "closed/below"])
def test_a_place_that_cannot_be_written_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_bytes(b"in the way")
    (tmp_path / "closed").mkdir(mode=0o500)
    if place.startswith("closed") and os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write everywhere")
    with pytest.raises(ConfigError) as caught, occupy(tmp_path / place):
        pass
    assert str(tmp_path / place) in caught.value.message and caught.value.remedy and caught.value.exit_code == 2
    assert (tmp_path / "file").read_bytes() == b"in the way"


def test_the_recorded_commit_is_of_this_code_and_of_no_checkout_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An installed copy inside another project's repository says nothing rather than that project's commit."""
    copy = tmp_path / "venv" / "ldm" / "core" / "runs" / "provenance.py"
    copy.parent.mkdir(parents=True)
    copy.touch()
    git = ["git", "-C", str(tmp_path), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run([*git, "init", "-q"], check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "of another project"], check=True)
    monkeypatch.setattr(provenance, "__file__", str(copy))
    assert provenance.provenance()["git"] is None
    provenance._git_commit.cache_clear()
    commit = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()
    (tmp_path / "venv" / "ldm" / ".git").symlink_to(tmp_path / ".git")
    assert str(provenance.provenance()["git"]).startswith(commit)


def test_a_checkout_records_its_commit() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("this is no checkout")
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout
    assert str(provenance.provenance()["git"]).rstrip("+") == commit.strip()
