"""Files are whole or absent, whatever interrupts their writing, and JSON keeps what it was given."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from ldm.core import files
from ldm.core.errors import DataError, UserError

KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ldm.core import files

def write(temporary):
    temporary.write_bytes(b"half of the new")
    os.kill(os.getpid(), signal.SIGKILL)

if sys.argv[3] == "file":
    files.write_atomically(Path(sys.argv[2]) / "kept", write)
with files.new_directory(Path(sys.argv[2]) / "folder") as temporary:
    write(temporary / "inside")
"""

LIMITED_DISK = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import numpy as np
from safetensors.numpy import save_file
from ldm.core import files
from ldm.core.errors import UserError

folder, how = Path(sys.argv[2]), sys.argv[3]
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    if how == "bytes":
        files.write_bytes(folder / "new", bytes(10_000))
    elif how == "tensors":
        files.write_atomically(folder / "new", lambda path: save_file({"a": np.zeros(10_000)}, path))
    else:
        with files.new_directory(folder / "new") as temporary:
            save_file({"a": np.zeros(10_000)}, temporary / "a.safetensors")
except UserError as error:
    print(error)
"""


def python(root: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", code, str(root), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_hash_of_a_file_is_the_sha256_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_the_hash_of_json_does_not_depend_on_the_order_of_keys() -> None:
    assert files.sha256_json({"a": 1, "b": [2.5, None]}) == files.sha256_json({"b": [2.5, None], "a": 1})
    assert files.sha256_json({"a": 1}) != files.sha256_json({"a": 2})


@given(st.text(st.characters(exclude_categories=())))
def test_json_keeps_every_text_even_lone_surrogates(text: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "text.json"
        files.write_json(path, {"text": text})
        path.read_bytes().decode("utf-8")
        read = files.read_json(path)["text"]
    # Two surrogates that happen to form a pair are one character, by the rules of JSON.
    assert read == text.encode("utf-16", "surrogatepass").decode("utf-16", "surrogatepass")


def test_json_is_readable_utf8_and_refuses_nan(tmp_path: Path) -> None:
    files.write_json(tmp_path / "a.json", {"class": "Brücke", "stray": os.fsdecode(b"\xff.png")})
    text = (tmp_path / "a.json").read_text("utf-8")
    assert "Brücke" in text
    assert json.loads(text)["stray"] == os.fsdecode(b"\xff.png")
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert files.read_json(tmp_path / "a.json")["class"] == "Brücke"


@pytest.mark.parametrize("read", [files.read_plain, files.sha256_file, files.read_json])
def test_pipes_devices_and_folders_are_refused_and_not_waited_for(read, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/null")
    (tmp_path / "folder").mkdir()
    for path in tmp_path.iterdir():
        with pytest.raises(DataError, match=rf"{path.name} is not a file"):
            read(path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"3", b"[" * 100_000, b"9" * 5000, b"null"])
def test_what_is_no_json_object_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.json").write_bytes(content)
    with pytest.raises(DataError, match=r"state\.json .*\(mend it\)"):
        files.read_json(tmp_path / "state.json", "mend it")


def test_missing_and_unreadable_json_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.json does not exist"):
        files.read_json(tmp_path / "absent.json")
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder\.json is not a file"):
        files.read_json(tmp_path / "folder.json")


def test_a_failing_write_leaves_the_file_that_was_there_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"old")

    def fail(temporary: Path) -> None:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        files.write_atomically(tmp_path / "kept", fail)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("kept", b"old")]


def test_a_failing_directory_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), files.new_directory(tmp_path / "new") as temporary:
        (temporary / "inside").write_bytes(b"half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["file", "folder"])
def test_kill_9_while_writing_leaves_the_old_file_and_a_temporary_that_goes_later(tmp_path: Path, what: str) -> None:
    (tmp_path / "kept").write_bytes(b"old")
    done = python(Path(__file__).parents[2], KILLED_WHILE_WRITING, str(tmp_path), what)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(tmp_path.iterdir())) == 2, "the temporary that the kill left behind"
    files.remove_temporaries(tmp_path)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("kept", b"old")]


def test_temporaries_are_removed_at_every_depth_and_other_files_are_not(tmp_path: Path) -> None:
    inside = tmp_path / "final"
    (inside / ".tmp-folder-0" / ".tmp-nested-0").mkdir(parents=True)
    (inside / ".tmpAyIM6K").touch()  # as safetensors names its own
    (inside / "model.safetensors").touch()
    (tmp_path / ".tmp-link-0").symlink_to(inside)
    files.remove_temporaries(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["final", "model.safetensors"]


@pytest.mark.parametrize("how", ["bytes", "tensors", "directory"])
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path, how: str) -> None:
    done = python(Path(__file__).parents[2], LIMITED_DISK, str(tmp_path), how)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"disk: cannot write {tmp_path / 'new'}: file too large (free some room")
    assert list(tmp_path.iterdir()) == []


def test_only_a_full_disk_is_called_one() -> None:
    with pytest.raises(UserError, match="no space left"), files.saying_disk_full(Path("x")):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(PermissionError), files.saying_disk_full(Path("x")):
        raise PermissionError(errno.EACCES, "Permission denied")


def test_files_get_the_permissions_that_the_user_gives_new_files(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        files.write_atomically(tmp_path / "a", lambda path: save_file({"a": np.zeros(3)}, path))
        with files.new_directory(tmp_path / "folder") as temporary:
            save_file({"a": np.zeros(3)}, temporary / "b")
    finally:
        os.umask(before)
    assert [oct((tmp_path / name).stat().st_mode & 0o777) for name in ("a", "folder/b")] == ["0o640", "0o640"]


def test_long_and_strange_names_can_be_written(tmp_path: Path) -> None:
    name = "ü" * 120 + ".png"
    files.write_bytes(tmp_path / name, b"1")
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", ["best", "0000000028", "a-b.c"])
def test_what_was_moved_aside_by_a_process_that_died_then_comes_back(tmp_path: Path, name: str) -> None:
    final = tmp_path / "inner" / name
    final.mkdir(parents=True)
    (final / "old").write_text("old")
    moved: list[Path] = []

    def die(path: Path, target: Path) -> Path:
        moved.append(path)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return rename(path, target)

    rename = Path.rename
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", die)
        with files.new_directory(final, replace=True) as folder:
            (folder / "new").write_text("new")
    assert not final.exists()
    files.remove_temporaries(tmp_path)
    assert (final / "old").read_text() == "old" and [path.name for path in final.parent.iterdir()] == [name]


def test_what_was_replaced_does_not_come_back(tmp_path: Path) -> None:
    for name in ("best", ".tmp-best-01234567-old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".tmp").write_text("of safetensors")
    files.remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["best"] and (tmp_path / "best" / "file").read_text() == "best"


def test_a_new_directory_is_not_made_in_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), files.new_directory(tmp_path / "gone" / "best"):
        pytest.fail("there is no folder to make it in")
    assert not list(tmp_path.iterdir())


def test_what_a_killed_process_left_of_a_directory_goes_at_the_next_start_and_a_living_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    left = [".tmp-export-01234567", ".tmp-export-89abcdef-old"]
    others = [".tmp-export-2-01234567", ".tmp-export-other", ".tmp-exports-01234567"]
    for name in ("export", *left, *others):
        (tmp_path / name).mkdir()
    with files.new_directory(tmp_path / "export", replace=True) as living:
        with files.new_directory(tmp_path / "export", replace=True) as second:
            (second / "a").write_text("second")
        (living / "a").write_text("living")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["export", *others])
    assert (tmp_path / "export" / "a").read_text() == "living"


def test_an_export_whose_replacement_was_killed_half_way_comes_back(tmp_path: Path) -> None:
    (tmp_path / ".tmp-export-01234567-old").mkdir()
    (tmp_path / ".tmp-export-01234567-old" / "a").write_text("old")
    with pytest.raises(ZeroDivisionError), files.new_directory(tmp_path / "export", replace=True):
        raise ZeroDivisionError
    assert [path.name for path in tmp_path.iterdir()] == ["export"]


def test_a_digest_whose_name_is_damaged_is_not_taken_for_a_file_from_before_there_was_one(tmp_path: Path) -> None:
    path, value = tmp_path / "a.json", {"files": {"b": "c"}}
    files.write_json(path, files.sealed(value, "own"))
    assert files.read_sealed(path, "own", 1) == value
    path.write_text(path.read_text().replace('"own"', '"owm"'))
    with pytest.raises(DataError, match="differs from its own sha256"):
        files.read_sealed(path, "own", 1)
    files.write_json(path, value)
    assert files.read_sealed(path, "own", 1) == value
