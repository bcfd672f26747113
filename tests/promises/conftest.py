"""What the tests of the promises share: commands in processes of their own, and the smallest pipeline's recipe."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.interrupted import Stage
from tests.support.launcher import Launcher
from tests.support.pipeline_run import Pipeline
from tests.support.remedies import heard, unknown
from tests.support.small_runs import write_recipe


@pytest.fixture(scope="session")
def ldm() -> Iterator[Launcher]:
    """Starts `ldm` commands as processes."""
    launcher = Launcher()
    yield launcher
    launcher.close()


@pytest.fixture(scope="session")
def recipe(tmp_path_factory: pytest.TempPathFactory, images: Path) -> Path:
    """The recipe of the smallest pipeline."""
    return write_recipe(tmp_path_factory.mktemp("recipe") / "tiny.yaml", images)


@pytest.fixture(scope="session")
def stage(
    ldm: Launcher,
    recipe: Path,
    trained: Pipeline,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Stage]:
    """Prepare a stage, once for all tests that ask for the same command."""
    made: dict[tuple[tuple[str, ...], str], Stage] = {}

    def prepare(*words: str, of: str = "trained") -> Stage:
        """of: the run, by its fixture, that the stages before it are of."""
        of = "next_scale" if words[0] == "train-var" else of
        if (words, of) not in made:
            before = trained if of == "trained" else request.getfixturevalue(of)
            made[words, of] = Stage(list(words), ldm, recipe, before.folder, tmp_path_factory.mktemp(words[0]))
        return made[words, of]

    return prepare


@pytest.fixture(autouse=True)
def remedies_are_of_known_forms() -> Iterator[None]:
    """R26: harvest what the tests of all promises are advised; what names a command has to be followed by a test."""
    with heard() as found:
        yield
    strange = {part for remedy in found for part in unknown(remedy)}
    assert not strange, f"no test follows these remedies: {strange}"
