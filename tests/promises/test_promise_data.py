"""R11 to R16: whatever lies in a folder of images is read right, counted, or refused by name, in time and in little."""

import gzip
import io
import os
import shutil
import struct
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ldm.cli.main import run
from ldm.core.errors import DataError
from ldm.core.images.loader import ImageLoader, Preparation
from ldm.core.images.sources import open_source
from tests.support.image_kinds import kinds, raw_png
from tests.support.launcher import Launcher
from tests.support.ledger import Trials
from tests.support.pipeline_run import Heard, Pipeline, manifest

KINDS = kinds()
NOBODY = 65534


@pytest.fixture(scope="module")
def folder_of_kinds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kinds")
    for name, (data, _) in KINDS.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.mark.promise("R11", quick=len(KINDS), full=len(KINDS))
def test_every_kind_of_image_gives_the_right_pixels_or_a_named_refusal(trials: Trials, folder_of_kinds: Path) -> None:
    source = open_source(str(folder_of_kinds))
    assert sorted(source.names) == sorted(KINDS)
    for index, _ in enumerate(trials):
        name = source.names[index]
        expected = KINDS[name][1]
        if expected is None:
            with pytest.raises(DataError, match=name.replace(".", r"\.")) as caught:
                source.image(index)
            assert caught.value.remedy
        else:
            found = source.image(index)
            assert found.dtype == np.uint8 and found.shape == expected.shape, name
            assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1, name


@pytest.mark.promise("R11")
def test_broken_images_stop_the_work_or_are_counted_and_listed_as_asked(folder_of_kinds: Path) -> None:
    broken = sorted(name for name, (_, expected) in KINDS.items() if expected is None)
    source = open_source(str(folder_of_kinds))
    for cache_bytes in (0, 1 << 30):
        with pytest.raises(DataError, match=broken[0].replace(".", r"\.")):
            loader = ImageLoader(source, Preparation(image_size=16, cache_bytes=cache_bytes))
            loader.batch(np.arange(len(source)))
        kept = ImageLoader(source, Preparation(16, on_error="skip", max_skipped=0.2, cache_bytes=cache_bytes))
        assert len(kept) == len(KINDS) - len(broken)
        assert [name for name, _ in kept.skipped] == broken
        assert all(name in reason for name, reason in kept.skipped)
        assert kept.batch(np.arange(len(kept))).shape == (len(kept), 16, 16, 3)
        with pytest.raises(DataError, match=r"images cannot be decoded: .*") as caught:
            ImageLoader(source, Preparation(image_size=16, on_error="skip", cache_bytes=cache_bytes))
        assert "at most 1% are skipped" in str(caught.value.remedy)


@pytest.mark.promise("R11", quick=1, full=3)
def test_one_broken_image_of_a_hundred_is_skipped_and_counted_in_the_manifest(trials: Trials, tmp_path: Path) -> None:
    for number, random in enumerate(trials):
        photos = tmp_path / str(number)
        photos.mkdir()
        for image in range(100):
            Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(photos / f"{image:03d}.png")
        broken = photos / f"{int(random.integers(100)):03d}.png"
        broken.write_bytes(broken.read_bytes()[:100])
        pipeline, heard = Pipeline(tmp_path / "runs", photos, name=str(number)), Heard()
        data = {"image_size": 16, "val_fraction": 0.2, "on_error": "skip", "max_skipped": 0.1, "source": str(photos)}
        pipeline.run("train-vqvae", heard, data=data, train__images=8)
        assert any("skipped 1 unreadable" in warning and broken.name in warning for warning in heard.warnings)
        pipeline.run("encode", heard)
        facts = manifest(pipeline.folder / "latents")["facts"]
        assert [name for name, _ in facts["skipped"]] == [broken.name]
        assert sum(facts["samples"].values()) == 99


def zip_of(name: str, data: bytes, method: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr(name, data)
    return buffer.getvalue()


def npz_of(shape: tuple[int, ...]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return zip_of("images.npy", buffer.getvalue() + bytes(50_000_000), zipfile.ZIP_DEFLATED)


def bombs() -> dict[str, Callable[[], bytes]]:
    """Files of about 50 KB that would swell: refused, or honest to the last byte below what is refused."""
    side, huge = 20_000, struct.pack(">HBBIII", 0, 8, 3, 2**31, 1000, 1000)
    return {
        "one-bit.png": lambda: raw_png(side, side, 1, 0, (b"\0" + bytes(side // 8)) * side),
        "just-below.png": lambda: raw_png(3_900, 4_000, 16, 0, (b"\0" + bytes(7_800)) * 4_000),
        "zeros.zip": lambda: zip_of("a/1.png", bytes(50_000_000), zipfile.ZIP_DEFLATED),
        "grey.png": lambda: raw_png(7_000, 7_000, 8, 0, (b"\0" + bytes(7_000)) * 7_000),
        "just-below-alpha.png": lambda: raw_png(3_900, 4_000, 8, 6, (b"\0" + bytes(15_600)) * 4_000),
        "header-only.png": lambda: raw_png(2**31 - 1, 2**31 - 1, 8, 2, b""),
        "zeros-lzma.zip": lambda: zip_of("a/1.png", bytes(250_000_000), zipfile.ZIP_LZMA),
        "zeros-bzip2.zip": lambda: zip_of("a/1.png", bytes(250_000_000), zipfile.ZIP_BZIP2),
        "liar.npz": lambda: npz_of((10**6, 1000, 1000)),
        "zeros.npz": lambda: npz_of((50_000, 100, 10)),
        "train-images-idx3-ubyte.gz": lambda: gzip.compress(huge + bytes(10**7)),
    }


@pytest.mark.promise("R12", quick=3, full=len(bombs()))
def test_a_bomb_takes_less_than_300_mb_and_is_named(trials: Trials, tmp_path: Path) -> None:
    for _, (name, make) in zip(trials, bombs().items(), strict=False):
        path = tmp_path / name
        path.write_bytes(make())
        assert path.stat().st_size < 100_000, path.stat().st_size
        if name.endswith("ubyte.gz"):
            (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">HBBI", 0, 8, 1, 2**31))
        code, swelled = in_a_child(lambda path=path: read_all(path))
        assert swelled < 300e6, f"{name} took {swelled / 1e6:,.0f} MB"
        assert code == (0 if name.startswith(("just-below", "zeros.npz")) else 3), name
        path.unlink()


def read_all(path: Path) -> int:
    """Read every image at a path; return the exit code that the command would have."""
    location = str(path.parent if path.suffix == ".png" else path)
    try:
        source = open_source(location)
        for index in range(min(len(source), 2)):
            source.image(index)
    except DataError as error:
        assert path.name in str(error)
        return error.exit_code
    return 0


def in_a_child(act: Callable[[], int]) -> tuple[int, int]:
    """Run a function in a forked process. Returns what it returns, and by how many bytes the process grew at most."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    child = os.fork()
    if child == 0:
        os._exit(act())
    _, status, usage = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss * 1024 - pages * os.sysconf("SC_PAGE_SIZE")


NAMES = [
    *(b"plain", b"\xff\xfe not utf-8", b"new\nline", "😀".encode(), "é".encode(), "e\u0301".encode(), b"-rf"),
    *(b"x" * 251, b"dots.in.the.stem", b"dots.in.the", b" ", b"%s{0}", b"back\\slash", b"000000", b"CON", b"a;b&c"),
]


@pytest.mark.promise("R13", quick=1, full=3)
def test_as_many_latents_come_out_as_strange_names_went_in(trials: Trials, tmp_path: Path) -> None:
    """Through every stage that reads names, and into the shards, where keys with dots would merge."""
    for number, random in enumerate(trials):
        folder = os.fsencode(tmp_path / str(number))
        stems = [(b"cat", stem, b".png") for stem in NAMES] + [(b"dog", stem, b".bmp") for stem in NAMES]
        stems += [(b"cat", b"plain", b".bmp"), (b"cat", b"plain", b".PNG")]
        for where, stem, suffix in stems:
            Path(os.fsdecode(folder + b"/" + where)).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(random.integers(0, 256, (16, 16, 3), dtype=np.uint8))
            with open(folder + b"/" + where + b"/" + stem + suffix, "wb") as file:  # noqa: PTH123 (names are bytes)
                picture.save(file, {b".bmp": "BMP"}.get(suffix, "PNG"))
        pipeline = Pipeline(tmp_path / "runs", tmp_path / str(number), name=str(number))
        pipeline.run("train-vqvae", train__images=8)
        pipeline.run("encode")
        facts = manifest(pipeline.folder / "latents")["facts"]
        assert sum(facts["samples"].values()) == len(stems)
        keys: dict[str, int] = {}
        for shard in sorted((pipeline.folder / "latents").glob("*.tar")):
            with tarfile.open(shard) as archive:
                for member in archive.getnames():
                    if member.endswith(".json"):
                        keys[f"{shard.name.split('-')[0]}/{member}"] = 1
        assert len(keys) == len(stems)


LINKS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "loop": ("again", lambda p: (p / "cat" / "again").symlink_to(p)),
    "up": ("up", lambda p: (p / "cat" / "up").symlink_to("/")),
    "itself": (r"itself\.png", lambda p: (p / "cat" / "itself.png").symlink_to(p / "cat" / "itself.png")),
    "dangling": (r"gone\.png", lambda p: (p / "cat" / "gone.png").symlink_to("/nowhere/at/all.png")),
    "twice": ("dog", lambda p: (p / "dog").symlink_to(p / "cat")),
    "pipe": (r"pipe\.png", lambda p: os.mkfifo(p / "cat" / "pipe.png")),
    "long loop": ("0", lambda p: [(p / "cat" / str(n)).symlink_to(p / "cat" / str((n + 1) % 50)) for n in range(50)]),
}


@pytest.mark.promise("R14", quick=len(LINKS) + 1, full=len(LINKS) + 1)
def test_links_end_in_time_and_are_named_or_counted(trials: Trials, tmp_path: Path) -> None:
    cases = iter(trials)
    for kind, (named, make) in LINKS.items():
        next(cases)
        root = tmp_path / kind
        (root / "cat").mkdir(parents=True)
        Image.new("RGB", (4, 4)).save(root / "cat" / "1.png")
        make(root)
        start = time.monotonic()
        with pytest.raises(DataError, match=named):
            open_source(str(root))
        assert time.monotonic() - start < 5
    next(cases)
    store, root = tmp_path / "store", tmp_path / "outward"
    store.mkdir()
    (root / "cat").mkdir(parents=True)
    for number in range(3):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(store / f"{number}.png")
    (root / "dog").symlink_to(store)
    (root / "cat" / "9.png").symlink_to(store / "0.png")
    assert open_source(str(root)).names == ["cat/9.png", "dog/0.png", "dog/1.png", "dog/2.png"]
    assert next(cases, None) is None


def npz_with(labels: object) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        np.savez(folder / "a.npz", images=np.zeros((6, 8, 8), np.uint8), labels=np.array(labels))
        return folder / "a.npz"

    return make


def tar_with(*labels: bytes | None, classes: str | None = None) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "PNG")
        with tarfile.open(folder / "a.tar", "w") as archive:
            for number, label in enumerate(labels):
                for name, data in ((f"{number}.png", picture.getvalue()), (f"{number}.cls", label)):
                    if data is not None:
                        info = tarfile.TarInfo(name)
                        info.size = len(data)
                        archive.addfile(info, io.BytesIO(data))
        if classes:
            (folder / "classes.json").write_text(classes)
        return folder / "a.tar"

    return make


def folders_with(**counts: int) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        for name, count in counts.items():
            (folder / "p" / name).mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (8, 8), (number, len(name), 0)).save(folder / "p" / name / f"{number}.png")
        (folder / "p").mkdir(exist_ok=True)
        return folder / "p"

    return make


LABELS: dict[str, tuple[str, Callable[[Path], Path], str]] = {
    "minus one": ("train-vqvae", npz_with([0, 1, -1, 0, 1, 0]), "label -1"),
    "K": ("train-vqvae", tar_with(b"0", b"1", b"2", classes='["cat", "dog"]'), "label 2"),
    "a million": ("train-vqvae", npz_with([0, 1, 10**6, 0, 1, 0]), "1000000"),
    "too few": ("train-vqvae", npz_with([0, 1]), "2 labels"),
    "missing": ("train-vqvae", tar_with(b"0", None, b"1"), "1.png has no label"),
    "no number": ("train-vqvae", npz_with([0.0, 1.5, 0, 0, 0, 0]), "float64"),
    "empty class": ("train-vqvae", folders_with(cat=4, dog=0), "class folder without images: dog"),
    "no images": ("train-vqvae", folders_with(), "no images"),
    "one class": ("train-classifier", folders_with(cat=9), "has one class"),
    "no classes": ("train-classifier", folders_with(**{".": 9}), "has one class"),
}


@pytest.mark.promise("R15", quick=len(LABELS), full=len(LABELS))
def test_wrong_labels_are_named_and_exit_3_before_training(
    trials: Trials, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, (name, (command, make, said)) in zip(trials, LABELS.items(), strict=True):
        folder = tmp_path / name
        folder.mkdir()
        data = make(folder)
        code = run([command, "--data", str(data), "--image-size", "16", "--runs-dir", str(folder / "runs"), "-q"])
        shown = capsys.readouterr().err
        assert code == 3 and said in shown and str(data) in shown, (name, code, shown)
        assert " hint: " in shown
        assert not list((folder / "runs").rglob("checkpoints")) and not list((folder / "runs").rglob("metrics.jsonl"))


COMMANDS: dict[str, tuple[str, ...]] = {
    "train-vqvae": ("--data", "/nowhere/at/all"),
    "encode": (),
    "train-dit": (),
    "train-classifier": ("--data", "/nowhere/at/all"),
}


@pytest.fixture
def anyones() -> Iterator[Path]:
    """A temporary folder that every user may enter; pytest's own may be entered by one only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.promise("R16", quick=3 * len(COMMANDS), full=3 * len(COMMANDS))
def test_an_output_that_cannot_be_written_exits_2_in_time_before_any_data_is_read(
    trials: Trials, ldm: Launcher, anyones: Path
) -> None:
    """There is no data: whoever looked for it first would exit 3. Root, who may write everywhere, is nobody here."""
    closed, file = anyones / "closed", anyones / "file"
    closed.mkdir(mode=0o555)
    file.write_text("in the way")
    places = {"read-only": closed, "below a missing folder": closed / "a" / "b", "a file": file}
    cases = iter(trials)
    for place in places.values():
        for command, words in COMMANDS.items():
            next(cases)
            ended = ldm.run(command, *words, "--runs-dir", place, user=NOBODY if os.getuid() == 0 else None)
            assert ended.code == 2 and ended.busy < 2, ended
            assert f"error: {place}" in ended.err and " hint: " in ended.err and "nowhere" not in ended.err
    assert next(cases, None) is None
    assert list(closed.iterdir()) == [] and file.read_text() == "in the way"
