"""What builds, tests and ships the project elsewhere is in step with pyproject.toml, the Makefile and the sources."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import ldm

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PYTHONS = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))


def workflow(name: str) -> dict[str, Any]:
    """Read a workflow; every scalar stays the text that it is (`on` is no boolean)."""
    loaded: dict[str, Any] = yaml.load((ROOT / ".github" / "workflows" / name).read_text(), Loader=yaml.BaseLoader)
    return loaded


def steps(name: str, job: str) -> str:
    return "\n".join(step.get("run", "") for step in workflow(name)["jobs"][job]["steps"])


def argument(name: str) -> str:
    """Return the default of a build argument."""
    found = re.search(rf"^ARG {name}=(.*)$", DOCKERFILE, re.M)
    assert found, f"Dockerfile has no ARG {name}"
    return found[1]


def test_the_image_has_the_torch_of_the_makefile_and_a_python_that_is_promised() -> None:
    makefile = re.search(r"^TORCH\s*\?= (\S+)$", (ROOT / "Makefile").read_text(), re.M)
    assert makefile and argument("TORCH") == makefile[1]
    python = re.fullmatch(r"python:(3\.\d+)-slim-\w+", argument("BASE"))
    assert python and python[1] in PYTHONS


def test_the_image_holds_what_the_wheel_is_built_from_and_its_context_nothing_else() -> None:
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", DOCKERFILE, re.M) for word in line.split()}
    folders = PROJECT["tool"]["setuptools"]["package-dir"].values()
    assert copied == {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"], *folders}
    first, *rules = [rule for rule in (ROOT / ".dockerignore").read_text().splitlines() if rule[:1] not in ("", "#")]
    assert first == "*" and {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == copied


def test_the_image_runs_as_nobody_with_rights_and_ldm_is_its_first_process() -> None:
    *_, user = re.findall(r"^USER (\S+)$", DOCKERFILE, re.M)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user) and f"--uid {user.split(':')[0]} " in DOCKERFILE
    assert 'ENTRYPOINT ["ldm"]' in DOCKERFILE


def test_what_changes_least_comes_first_in_the_image() -> None:
    order = ["apt-get", '"${TORCH}"', "COPY pyproject.toml", "requirements.txt", "COPY cli", '".${EXTRAS}"', "USER "]
    places = [DOCKERFILE.index(f"{part}", DOCKERFILE.index("FROM ")) for part in order]
    assert places == sorted(places)


def test_every_python_that_is_promised_is_tested_before_it_is_released() -> None:
    requires = PROJECT["project"]["requires-python"]
    assert requires == f">={PYTHONS[0]}"
    for file, job in (("ci.yml", "test"), ("release.yml", "try")):
        assert workflow(file)["jobs"][job]["strategy"]["matrix"]["python"] == PYTHONS
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    python = re.search(r"python:(3\.\d+)-", container["image"])
    assert python and python[1] in PYTHONS


def test_ci_runs_targets_that_make_has() -> None:
    targets = set(re.findall(r"^([a-z-]+|\$\(VENV\)/[\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = re.findall(r"\bmake ([a-z-]+)", steps("ci.yml", "test") + "\n" + steps("ci.yml", "docs"))
    assert named == ["test", "docs"] and set(named) <= targets
    container = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    assert {name.replace(".venv", "$(VENV)") for name in container["postCreateCommand"].split()[1:]} <= targets


def test_a_release_is_a_tag_that_is_tried_first_and_needs_no_secret() -> None:
    release = workflow("release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}}
    assert release["permissions"] == {"contents": "read"}
    publish = release["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    assert publish["needs"] == "try" and release["jobs"]["try"]["needs"] == "build"
    assert "secrets." not in "".join(path.read_text() for path in (ROOT / ".github").rglob("*.yml"))
    assert 'test "$TAG" = "v$version"' in steps("release.yml", "build")


@pytest.mark.parametrize("pattern", [r'version: "?{}"?', r"cff-version: 1\.2\.0"])
def test_the_citation_is_of_this_version(pattern: str) -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert re.search(rf"^{pattern.format(re.escape(ldm.__version__))}$", text, re.M)
    cited = yaml.safe_load(text)
    assert cited["license"] == PROJECT["project"]["license"]
    assert [author["name"] for author in cited["authors"]] == [a["name"] for a in PROJECT["project"]["authors"]]
