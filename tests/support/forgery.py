"""Runs that lie: what a hand that knows the format can put into a stage's directory, every hash in it being right."""

import json
import shutil
from pathlib import Path
from typing import Any

from ldm.core import files
from ldm.core.runs import checkpoint
from ldm.core.runs.run import IDENTITY, MANIFEST, RECIPE, SCHEMA
from ldm.core.settings.fields import identity
from ldm.stages.table import COMMANDS

KEPT = (
    Path(__file__).parents[1] / "promises" / "old_files" / "schema-1"
)  # the smallest whole run, so that none need be trained
RUN = "kept"


def copy_run(runs_dir: Path) -> Path:
    """Copy the kept run into a new folder of runs. Returns the run."""
    return Path(shutil.copytree(KEPT, runs_dir / RUN))


def seal(folder: Path) -> None:
    """Let a stage's manifest say that its files are what they are now."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    for name in [*manifest["files"]]:
        path = folder / name
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
    write_manifest(folder, manifest)


def seal_network(folder: Path) -> None:
    """Let a network's description, and the manifest of the stage it is of, say that its weights are what they are."""
    described = json.loads((folder / "config.json").read_bytes())
    described["weights_sha256"] = files.sha256_file(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(described))
    seal(folder.parent)


def seal_checkpoint(folder: Path) -> None:
    """Let a checkpoint's manifest say that its files are what they are now."""
    table = {path.name: files.sha256_file(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST}
    manifest = {"schema": checkpoint.SCHEMA, "files": table, "sha256": files.sha256_json(table)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def forget_owner(folder: Path) -> None:
    """Let a checkpoint be one from before checkpoints recorded whose training they are of."""
    state = json.loads((folder / checkpoint.STATE).read_bytes())
    del state["owner"]
    (folder / checkpoint.STATE).write_text(json.dumps(state))
    seal_checkpoint(folder)


def write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Write a manifest with the right hash of itself."""
    manifest = {key: value for key, value in manifest.items() if key != "manifest_sha256"}
    sealed = {**manifest, "manifest_sha256": files.sha256_json(manifest)}
    (folder / MANIFEST).write_text(json.dumps(sealed), encoding="utf-8", errors="backslashreplace")


def change_manifest(folder: Path, **changes: Any) -> None:
    """Change some facts in a stage's manifest."""
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["facts"] |= changes
    write_manifest(folder, manifest)


def add_stage(run: Path, stage: str, command: str, facts: dict[str, Any], inputs: dict[str, str], *names: str) -> Path:
    """Add what a stage leaves beside its files, of the default settings. inputs: role → stage. Returns its folder."""
    folder = run / stage
    settings = identity(COMMANDS[command].settings())
    described = {role: fingerprint(run / other) for role, other in inputs.items()}
    document = {"schema": SCHEMA, "kind": stage.split("/")[0], "config": settings}
    (folder / IDENTITY).write_text(
        json.dumps({**document, "inputs": {r: {"fingerprint": f} for r, f in described.items()}})
    )
    (folder / RECIPE).write_text(f"{command}: {{}}\n")
    manifest = json.loads((run / "dit" / MANIFEST).read_bytes()) | document
    up = "../" * len(Path(stage).parts)
    manifest["inputs"] = {role: {"path": up + inputs[role], "fingerprint": f} for role, f in described.items()}
    manifest |= {"command": f"ldm {command}", "facts": facts, "files": {name: {} for name in names}}
    write_manifest(folder, manifest)
    seal(folder)
    return folder


def fingerprint(folder: Path) -> str:
    return files.sha256_json(json.loads((folder / MANIFEST).read_bytes())["files"])


def add_evaluation(run: Path, label: str, document: dict[str, Any]) -> Path:
    """Add an evaluation of samples to a run, whatever its document says. Returns its folder."""
    folder = run / "eval" / label
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(document))
    facts = {"numbers": document["numbers"], "floor": document.get("real_against_real", {})}
    return add_stage(run, f"eval/{label}", "eval", facts, {"samples": "samples/some"}, "metrics.json")
