"""What reads the files of a run: manifests, identities, settings, shards, networks, numbers; and a whole small one."""

import contextlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ldm.core import files
from ldm.core.autoencoders import registry
from ldm.core.autoregressive import registry as autoregressive
from ldm.core.autoregressive.var_config import NextScaleConfig
from ldm.core.conditioning import bpe
from ldm.core.conditioning.own_encoder import OwnEncoder
from ldm.core.conditioning.registry import recorded
from ldm.core.conditioning.text import TextConditioning
from ldm.core.denoisers import noisy_classifier
from ldm.core.denoisers import registry as denoisers
from ldm.core.denoisers.mmdit_config import MMDiTConfig
from ldm.core.denoisers.settings import NOISY
from ldm.core.diffusion.distillation import CFG
from ldm.core.features import classifier
from ldm.core.features.registry import open_extractor
from ldm.core.interchange.model_card import look_for
from ldm.core.latents.index import INDEX, check_index
from ldm.core.latents.sets import open_latents, read_latents
from ldm.core.latents.sharded import Reading, ShardedLatents
from ldm.core.latents.shards import read_shard
from ldm.core.metrics.frechet import GaussianStatistics, save_statistics
from ldm.core.pipeline.latest import OUTLINE, open_latest, write_outline
from ldm.core.progress import Silent
from ldm.core.runs import claim as claims
from ldm.core.runs.claim import Identity
from ldm.core.runs.run import IDENTITY, MANIFEST
from ldm.stages import encode, sample, train_denoiser
from ldm.stages import eval as evaluation
from ldm.stages.table import COMMANDS
from ldm.stages.tools import export, inspect, report, sweep, verify
from tests.support.forgery import KEPT, RUN, add_evaluation, add_stage, copy_run, write_manifest
from tests.support.harms import Harm, in_header, in_json, in_lines, in_tar, in_yaml
from tests.support.parsers import Parser, Read
from tests.support.regression import FP32

STAGES = (
    *("vqvae", "latents", "dit", "denoiser", "students/2", "var", "classifier", NOISY),
    *("samples/some", "edits/photo", "eval/some", "sweep"),
)
SMALL = {"width": 8, "depth": 1, "heads": 1}
LATENTS = (4, 4, 4)
SHARDS = {"train": ["shard-000000.tar"], "val": ["val-000000.tar"]}
ROLES = {"vqvae": "autoencoder", "dit": "denoiser", "some": "samples"}
PROMPT = "a red square"


def make_run(folder: Path) -> None:
    """The kept run with classifiers and an evaluation, which it lacks."""
    run = copy_run(folder)
    for name in ("classifier", NOISY):
        (run / name).mkdir()
    torch.manual_seed(0)
    network = classifier.Classifier(classifier.ClassifierConfig(num_classes=3, image_size=16, channels=(8, 8)))
    classifier.save(network, run / "classifier" / "final", ("blue", "green", "red"), {"accuracy": 0.5})
    noisy = noisy_classifier.NoisyClassifier(
        noisy_classifier.NoisyClassifierConfig(latent_channels=4, latent_size=4, num_classes=3, **SMALL)
    )
    noisy_classifier.save(noisy, run / NOISY / "final")
    facts = json.loads((run / "dit" / MANIFEST).read_bytes())["facts"]
    known = {name: facts[name] for name in ("class_names", "latent_shape", "diffusion")}
    names = ("final/config.json", "final/model.safetensors")
    made_of = {"latents": "latents", "autoencoder": "vqvae"}

    # A student, and a transformer over the tokens of no autoencoder that there is.
    (run / "students" / "2").mkdir(parents=True)
    (run / "var").mkdir()
    taught = denoisers.read_config(run / "dit" / "final").replace(scalars=(CFG,))
    denoisers.save(denoisers.build(taught), run / "students" / "2" / "final")
    of_student = {**facts, "label_dropout": 0.0, "student": {"steps": 2, "guidance": [1.0, 4.0]}}
    add_stage(run, "students/2", "distill", of_student, {"denoiser": "dit", **made_of}, *names)
    tokens = NextScaleConfig(scales=(1, 2), codebook_size=8, code_channels=4, num_classes=3, **SMALL)
    autoregressive.save(autoregressive.build(tokens), run / "var" / "final")
    of_tokens = {**known, "image_size": 16, "scales": [1, 2], "label_dropout": 0.1}
    add_stage(run, "var", "train-var", of_tokens, made_of, *names)
    add_stage(run, "classifier", "train-classifier", {**known, "accuracy": 0.5}, {}, *names)
    add_stage(run, NOISY, "train-classifier", {**known, "accuracy": {"val_accuracy": 0.5}}, made_of, *names)
    sampling = {"sampler": "ddim", "steps": 2, "cfg": 3.0}
    shutil.copytree(run / "samples" / "some", run / "edits" / "photo")
    edited = {"images": [{"file": "000000.png", "seed": 0}], "image_size": 16, "sampling": sampling}
    add_stage(run, "edits/photo", "edit", edited, {"denoiser": "dit"}, "000000.png")
    conditions = {"extractor": "classifier", "weights_sha256": "0" * 64, "resize": "none", "sampling": sampling}
    conditions |= {"n_samples": 3, "n_reference": 7, "reference": "squares"}
    numbers = {"frechet_distance[classifier]": 1.5, "class_accuracy[classifier]": 0.5}
    evaluated = {"of": "samples", "numbers": numbers, "real_against_real": numbers, "conditions": conditions}
    add_evaluation(run, "some", evaluated)
    row = {"by": "ddim", "cfg": 3.0, "steps": 2, "evaluations": 4, "seconds": 0.5, **numbers}
    (run / "sweep").mkdir()
    (run / "sweep" / "table.csv").write_text("by,cfg\nddim,3.0\n")
    add_stage(run, "sweep", "sweep", {"rows": [row]}, {"samples at cfg 3, 2 steps": "samples/some"}, "table.csv")

    # What a checkpoint lacks to be drawn from.
    described = json.loads((run / "dit" / "final" / "config.json").read_bytes())
    write_outline(run / "dit", described, json.loads((run / "dit" / MANIFEST).read_bytes())["inputs"])
    extractor = open_extractor("classifier", run / "classifier" / "final")
    (folder / "statistics").mkdir()
    moments = GaussianStatistics(9, torch.zeros(extractor.dim).double(), torch.eye(extractor.dim).double())
    save_statistics(moments, extractor, folder / "statistics")


def make_run_of_text(folder: Path) -> None:
    """The kept run with a denoiser of prompts in the place of its own."""
    run = copy_run(folder)
    known = json.loads((run / "dit" / MANIFEST).read_bytes())["facts"]
    ids = tuple(sorted(set(bpe.encode(PROMPT))))
    texts = TextConditioning(OwnEncoder().describe(), 8, vocabulary=ids, prompts=(PROMPT,))
    torch.manual_seed(0)
    config = MMDiTConfig(
        latent_channels=4, latent_size=4, text_width=8, text_layers=1, patch_size=2, **SMALL, **texts.sizes
    )
    facts = {name: known[name] for name in ("latent_shape", "image_size", "diffusion", "label_dropout", "images_seen")}
    facts |= recorded(texts)
    (run / "denoiser").mkdir()
    denoisers.save(denoisers.build(config), run / "denoiser" / "final", facts)
    names = ("final/config.json", "final/model.safetensors")
    add_stage(run, "denoiser", "train-denoiser", facts, {"latents": "latents", "autoencoder": "vqvae"}, *names)
    shutil.rmtree(run / "dit")
    shutil.rmtree(run / "samples")


def seal_run(folder: Path, harmed: str) -> None:
    """Put the hashes of a run right, from the autoencoder on, as far as what was harmed can still be read."""
    fingerprints: dict[str, str] = {}
    if harmed.endswith(OUTLINE):
        with contextlib.suppress(Exception):
            _overrule(folder / harmed, "sha256")
    for stage in filter(lambda stage: (folder / RUN / stage).is_dir(), STAGES):
        where = folder / RUN / stage
        with contextlib.suppress(Exception):
            if harmed == f"{RUN}/{stage}/final/model.safetensors":
                path = where / "final" / "config.json"
                described = json.loads(path.read_bytes())
                described["weights_sha256"] = files.sha256_file(path.with_name("model.safetensors"))
                path.write_text(json.dumps(described))
            _seal_stage(where, fingerprints, folder / harmed)


def _seal_stage(where: Path, fingerprints: dict[str, str], harmed: Path) -> None:
    if harmed == where / MANIFEST:
        manifest = _overrule(harmed, "manifest_sha256")
    else:
        manifest = json.loads((where / MANIFEST).read_bytes())
        manifest.pop("manifest_sha256", None)
        for name in manifest["files"]:
            path = where / name
            manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
        for role, entry in manifest["inputs"].items():
            entry["fingerprint"] = fingerprints.get(role, entry["fingerprint"])
        write_manifest(where, manifest)
        if harmed != where / IDENTITY:
            identity = json.loads((where / IDENTITY).read_bytes())
            for role, entry in identity["inputs"].items():
                entry["fingerprint"] = fingerprints.get(role, entry["fingerprint"])
            (where / IDENTITY).write_text(json.dumps(identity))
    fingerprints[ROLES.get(where.name, where.name)] = files.sha256_json(manifest["files"])


def _overrule(path: Path, key: str) -> dict[str, Any]:
    """Put the hash of a sealed document right. Its text stays as odd as it is; a last entry overrules those before."""
    text = path.read_bytes().decode()
    value: dict[str, Any] = json.loads(text)
    value.pop(key, None)
    path.write_text(f'{text.rstrip()[:-1]}, "{key}": "{files.sha256_json(value)}"}}')
    return value


def stage_of(folder: Path, harmed: str) -> Path:
    """Return the stage's folder that a harmed file is of."""
    return next(folder / RUN / stage for stage in STAGES if harmed.startswith(f"{RUN}/{stage}/"))


def config(command: str, folder: Path, **settings: Any) -> Any:
    fields = COMMANDS[command].settings.model_fields
    layers = {"name": RUN, "runs_dir": folder, "machine": {"device": "cpu"}}
    return COMMANDS[command].settings.model_validate({**{k: v for k, v in layers.items() if k in fields}, **settings})


def look(folder: Path, harmed: str) -> None:
    inspect.run(config("inspect", folder, path=stage_of(folder, harmed)), Silent())


def look_at_all(folder: Path, harmed: str) -> None:
    inspect.run(config("inspect", folder, path=folder / RUN), Silent())


def look_unfinished(folder: Path, harmed: str) -> None:
    (stage_of(folder, harmed) / MANIFEST).unlink()
    look(folder, harmed)


def check(folder: Path, harmed: str) -> None:
    verify.run(config("verify", folder, path=stage_of(folder, harmed)), Silent())


def check_all(folder: Path, harmed: str) -> None:
    verify.run(config("verify", folder, path=folder / RUN), Silent())


def check_unfinished(folder: Path, harmed: str) -> None:
    (stage_of(folder, harmed) / MANIFEST).unlink()
    with contextlib.suppress(files.UserError):  # It always refuses what is unfinished.
        check(folder, harmed)


def draw(folder: Path, harmed: str) -> None:
    _draw(folder, "dit", steps=1)


def draw_in_steps_of_a_student(folder: Path, harmed: str) -> None:
    _draw(folder, "students/2")


def _draw(folder: Path, stage: str, **how: Any) -> None:
    settings = config("sample", folder, num=1, classes="0", label="new", denoiser=folder / RUN / stage, **how)
    sample.run(settings, Silent())


def draw_prompts(folder: Path, harmed: str) -> None:
    how = {"num": 1, "label": "new", "steps": 1, "prompt": [PROMPT]}
    sample.run(config("sample", folder, **how), Silent())


def open_newest(folder: Path, harmed: str) -> None:
    """As what draws from a training that is not finished."""
    (folder / RUN / "dit" / MANIFEST).unlink()
    open_latest(folder / RUN / "dit", "ldm train-dit").verify()


def draw_guided(folder: Path, harmed: str) -> None:
    guides = {"autoguide": folder / RUN / "dit", "classifier_scale": 1.0, "cfg": 1}
    _draw(folder, "dit", steps=1, **guides)


def train(folder: Path, harmed: str) -> None:
    """One step, in place of the denoiser."""
    settings = {"model": {**SMALL, "patch_size": 2}, "train": {"images": 4, "batch_size": 4}, "preview": {"every": 0}}
    train_denoiser.run(config("train-dit", folder, replace=True, **settings), Silent())


def prepare_encoding(folder: Path, harmed: str) -> None:
    """All that encoding reads but the images."""
    settings = config("encode", folder)
    source = encode.open_own(encode.AUTOENCODER, settings, folder / RUN / "vqvae")
    encode.inherit_data(settings, source)
    encode.load_autoencoder(source, FP32)


def evaluate(folder: Path, harmed: str) -> None:
    """Against saved statistics, so that no images need be there."""
    statistics = {"reference": str(folder / "statistics"), "samples": "some", "replace": True}
    evaluation.run(config("eval", folder, **statistics), Silent())


def write_report(folder: Path, harmed: str) -> None:
    report.run(config("report", folder), Silent())


def prepare_export(folder: Path, harmed: str) -> None:
    opened = export._open(config("export", folder, directory=folder / "out"), Silent())
    assert look_for(folder / RUN, opened.denoiser, Silent().warn).fingerprint


def compare(folder: Path, harmed: str) -> None:
    """As `ldm sweep` puts its points side by side."""
    point = sweep.Point("ddim", 3.0, 2, 4, folder / RUN / "samples" / "some", folder / RUN / "eval" / "some")
    sweep.compare(config("sweep", folder), [point], Silent())


def claim(folder: Path, harmed: str) -> None:
    """As the same command does that finds its folder there already."""
    for stage in ("dit", "latents"):
        known = json.loads((KEPT / stage / IDENTITY).read_bytes())
        wanted = Identity(known["kind"], "ldm x", known["config"], known["inputs"], "x: 1\n", known["config"])
        claims.claim(folder / RUN / stage, wanted)


def claim_unfinished(folder: Path, harmed: str) -> None:
    for stage in ("dit", "latents"):
        (folder / RUN / stage / MANIFEST).unlink()
    claim(folder, harmed)


def map_latents(folder: Path, harmed: str) -> None:
    """Straight from the shards, as behind a manifest that agrees."""
    _read_latents(folder, "mapped")


def hold_latents(folder: Path, harmed: str) -> None:
    _read_latents(folder, "held")


def stream_latents(folder: Path, harmed: str) -> None:
    _read_latents(folder, "streamed")


def _read_latents(folder: Path, reading: Reading) -> None:
    for split, names in SHARDS.items():
        found = ShardedLatents(folder / RUN / "latents", split, names, LATENTS, reading)
        for row in range(min(len(found), 9)):
            flip = np.array([row % 2 == 0]) if "flip.npy" in found.fields else None
            found.array("npy", np.array([row]), flip)


def check_latents(folder: Path, harmed: str) -> None:
    for path in sorted((folder / RUN / "latents").glob("*.tar")):
        for _ in read_shard(path):
            pass
    check_index(folder / RUN / "latents", SHARDS)


def take_latents(folder: Path, harmed: str) -> None:
    latents, _ = open_latents(None, config("train-dit", folder))
    latents.verify()
    sets = read_latents(latents)
    everything = np.arange(len(sets.train))
    sets.train.batch(everything, everything, 0)


def load_autoencoder(folder: Path, harmed: str) -> None:
    registry.load(folder / RUN / "vqvae" / "final").decode(torch.zeros(1, *LATENTS))


def load_denoiser(folder: Path, harmed: str) -> None:
    model = denoisers.load(folder / RUN / "dit" / "final", LATENTS)
    model(torch.zeros(1, *LATENTS), torch.zeros(1), {"labels": torch.zeros(1, dtype=torch.int64)})


def load_student(folder: Path, harmed: str) -> None:
    model = denoisers.load(folder / RUN / "students" / "2" / "final", LATENTS)
    model(torch.zeros(1, *LATENTS), torch.zeros(1), {"labels": torch.zeros(1, dtype=torch.int64), CFG: torch.ones(1)})


def load_transformer(folder: Path, harmed: str) -> None:
    model = autoregressive.load(folder / RUN / "var" / "final")
    model(torch.zeros(1, 4, model.config.code_channels), {"labels": torch.zeros(1, dtype=torch.int64)})


def load_classifiers(folder: Path, harmed: str) -> None:
    extractor = open_extractor("classifier", folder / RUN / "classifier" / "final", torch.device("cpu"))
    extractor.both(torch.zeros(1, 3, 16, 16))
    noisy = noisy_classifier.load(folder / RUN / NOISY / "final", LATENTS)
    noisy(torch.zeros(1, *LATENTS), torch.zeros(1))


_OF_RUN = tuple(stage for stage in STAGES if stage != "denoiser")  # that is another run's


def _harms(harm: Harm, name: str, stages: tuple[str, ...] = _OF_RUN) -> dict[str, Harm]:
    return {f"{RUN}/{stage}/{name}": harm for stage in stages}


def _of_run(harms: Mapping[str, Harm], readers: tuple[Read, ...], rarely: tuple[Read, ...] = ()) -> Parser:
    return Parser(make_run, harms, readers, seal_run, rarely)


_TRAINED = ("vqvae", "dit", "students/2", "var", "classifier", NOISY)
_WHOLE = (look_at_all, check_all)
_DRAWN = (draw, draw_guided, draw_in_steps_of_a_student)
_PREPARED = (prepare_encoding, prepare_export)
_LOADED = (load_autoencoder, load_denoiser, load_student, load_transformer, load_classifiers)
RUN_PARSERS = {
    "manifest": _of_run(
        _harms(in_json, MANIFEST),
        (look, check, *_PREPARED),
        (*_WHOLE, *_DRAWN, train, evaluate, write_report, compare),
    ),
    "identity": _of_run(
        _harms(in_json, IDENTITY), (look, check, claim, claim_unfinished, look_unfinished, check_unfinished), _WHOLE
    ),
    "config": _of_run(_harms(in_yaml, "config.yaml"), (look, check, look_unfinished, check_unfinished), _WHOLE),
    "shard": _of_run(
        _harms(in_tar, "shard-000000.tar", ("latents",)),
        (map_latents, hold_latents, stream_latents, check_latents, take_latents, check, check_unfinished),
        (train,),
    ),
    "index": _of_run(
        _harms(in_header, INDEX, ("latents",)),
        (map_latents, hold_latents, stream_latents, check_latents, take_latents),
        (check, train),
    ),
    "network": _of_run(_harms(in_json, "final/config.json", _TRAINED), (*_LOADED, look, check), (*_DRAWN, evaluate)),
    "safetensors": _of_run(
        _harms(in_header, "final/model.safetensors", _TRAINED), (*_LOADED, look, check), (*_DRAWN, evaluate)
    ),
    "outline": _of_run(_harms(in_json, OUTLINE, ("dit",)), (open_newest,)),
    "manifest-of-text": Parser(
        make_run_of_text,
        _harms(in_json, MANIFEST, ("denoiser",)),
        (look, check, prepare_export),
        seal_run,
        (*_WHOLE, draw_prompts, write_report),
    ),
    "network-of-text": Parser(
        make_run_of_text, _harms(in_json, "final/config.json", ("denoiser",)), (look, check), seal_run, (draw_prompts,)
    ),
    "evaluation": _of_run(
        _harms(in_json, "metrics.json", ("eval/some",)),
        (prepare_export,),
        (write_report, compare),
    ),
    "metrics-of-run": _of_run(_harms(in_lines, "metrics.jsonl", ("dit",)), (look, look_unfinished), (write_report,)),
}
