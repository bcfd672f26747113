"""Tries harmed files on what reads them, in a process whose memory and time are bounded."""

import json
import os
import resource
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from types import FrameType

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from ldm.core.errors import UserError
from tests.support.harms import often
from tests.support.network_parsers import NETWORK_PARSERS
from tests.support.parsers import PARSERS, Parser, Read
from tests.support.run_parsers import RUN_PARSERS

ALL = {**PARSERS, **RUN_PARSERS, **NETWORK_PARSERS}
MEMORY = 1 << 30  # bytes beyond what the process has when it has read whole files once
SECONDS = 5  # of the processor: a machine may be busy with other things
ASLEEP = 240  # seconds by the clock, for a reader that waits instead; a busy machine, too, lets readers wait
SEALED, RARELY = 80, 2  # of a hundred: how often hashes are put right, and the slow readers are taken


class Hang(BaseException):
    """The reader is still at it."""


class Bench:
    """A folder with the whole files of a parser, one of which is harmed at a time."""

    def __init__(self, name: str, folder: Path) -> None:
        self.parser: Parser = ALL[name]
        self.folder = folder
        folder.mkdir(parents=True)
        self.parser.make(folder)
        self.whole = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.stamps = {str(path): _stamp(path.stat()) for path in self.whole}

    def trials(self) -> st.SearchStrategy[tuple[str, bytes, Read, bool]]:
        """Draw a file and its harm, a reader, and whether hashes are put right."""
        parser = self.parser
        readers = st.sampled_from(parser.readers)
        if parser.rarely:
            readers = often(RARELY).flatmap(lambda slow: st.sampled_from(parser.rarely if slow else parser.readers))

        def of(name: str) -> st.SearchStrategy[tuple[str, bytes, Read, bool]]:
            return st.tuples(st.just(name), parser.harms[name](self.whole[self.folder / name]), readers, often(SEALED))

        return st.sampled_from(sorted(parser.harms)).flatmap(of)

    def read(self, name: str, harmed: bytes, reader: Read, sealed: bool) -> str | None:
        """Let a reader read harmed bytes in place of a file. Returns what was wrong with its end, if anything."""
        (self.folder / name).write_bytes(harmed)
        if sealed and self.parser.seal is not None:
            self.parser.seal(self.folder, name)
        try:
            with bounded():
                reader(self.folder, name)
        except UserError as error:
            return _wrong_with(error, name)
        except (Exception, Hang):
            return traceback.format_exc(limit=-12)
        finally:
            self.restore()
        return None

    def restore(self) -> None:
        """Put every file back as it was, and remove what was written."""
        found = {entry.path: _stamp(entry.stat()) for entry in _files(str(self.folder))}
        for name in found.keys() - self.stamps.keys():
            Path(name).unlink()
        for path, data in self.whole.items():
            if found.get(str(path)) != self.stamps[str(path)]:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)
                self.stamps[str(path)] = _stamp(path.stat())


def _files(folder: str) -> Iterator["os.DirEntry[str]"]:
    """All files below a folder, links aside."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            elif entry.is_file():
                yield entry


def _stamp(status: os.stat_result) -> tuple[int, int, int]:
    """What changes with a file: no reader can put back the time of its last change."""
    return status.st_ino, status.st_size, status.st_ctime_ns


def _wrong_with(error: UserError, name: str) -> str | None:
    """A refusal must be for what is in the file, not for want of memory, and name it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError) or "can't allocate memory" in str(cause):
            return f"it took more than {MEMORY >> 20} MB: {error}\n{traceback.format_exc(limit=-12)}"
        cause = cause.__cause__ or cause.__context__
    return None if error.message else "an error without a word"


@contextmanager
def bounded() -> Iterator[None]:
    """Raise Hang in the block after `SECONDS` of work, or `ASLEEP` seconds of waiting."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, ASLEEP)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)


def _hang(number: int, frame: FrameType | None) -> None:
    raise Hang(f"still at it after {SECONDS if number == signal.SIGPROF else ASLEEP} s")


def limit_memory() -> None:
    """Bound the memory of this process by `MEMORY` beyond what it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))


def prepare(name: str, folder: Path, full: bool = True) -> Bench:
    """Lay the files out, have all that reads them read them whole, and bound time and memory from there on.

    full: each that is not slow reads all of them; else one.
    """
    signal.signal(signal.SIGPROF, _hang)
    signal.signal(signal.SIGALRM, _hang)
    bench = Bench(name, folder)
    files = sorted(bench.parser.harms)
    # Whatever is imported late is imported here.
    for reader, file in [*product(bench.parser.readers, files), *product(bench.parser.rarely, files[:1])]:
        if full or (file == files[0] and reader in bench.parser.readers):
            reader(bench.folder, file)
            bench.restore()
    limit_memory()
    return bench


def fuzz(arguments: list[str]) -> int:
    """Let hypothesis harm the files of one parser; write as JSON how many trials there were, and what was wrong.

    The quick form draws the same in every run. What is wrong is shrunk, and the harmed file is kept.
    arguments: the parser, a new folder, the form (`full` or `quick`), a seed, how many trials, and the file to write.
    """
    name, folder, form, number, count, report = arguments
    bench = prepare(name, Path(folder) / "bench", form == "full")
    tried: list[tuple[str, bytes]] = []
    bounds = settings(
        max_examples=int(count),
        derandomize=form == "quick",
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )

    def check(trial: tuple[str, bytes, Read, bool]) -> None:
        file, harmed, reader, sealed = trial
        tried.append((file, harmed))
        wrong = bench.read(file, harmed, reader, sealed)
        assert wrong is None, wrong

    test = bounds(given(bench.trials())(check))
    try:
        (test if form == "quick" else seed(int(number))(test))()
        found = None
    except AssertionError as error:
        file, harmed = tried[-1]
        kept = Path(folder) / f"{name}-harmed"
        kept.write_bytes(harmed)
        found = f"{kept} for {file}: {error}"
    Path(report).write_text(json.dumps({"tried": len(tried), "wrong": found}))
    return 0


def replay(arguments: list[str]) -> int:
    """Let all that reads a kind of file read some harmed ones; write what was wrong.

    Hashes are right, and for readers that are not slow wrong as well. In the quick form, slow readers share the files,
    and so do the others where hashes are wrong.
    arguments: the parser, a new folder, the form (`full` or `quick`), the file to write, then by turns which file is
    harmed and the bytes for it.
    """
    name, folder, form, report, *kept = arguments
    bench = prepare(name, Path(folder) / "bench", full=False)
    with Path(report).open("w", buffering=1) as lines:
        pairs = list(zip(kept[::2], kept[1::2], strict=True))
        for number, (file, path) in enumerate(pairs):
            harmed = Path(path).read_bytes()
            own = slice(None) if form == "full" else slice(number, None, len(pairs))
            sealed = [(reader, True) for reader in (*bench.parser.readers, *bench.parser.rarely[own])]
            for reader, is_sealed in [*sealed, *((reader, False) for reader in bench.parser.readers[own])]:
                lines.write(json.dumps([path, bench.read(file, harmed, reader, is_sealed)]) + "\n")
    return 0
