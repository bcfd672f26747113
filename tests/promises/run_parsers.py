"""What reads runs, checkpoints and networks, ours and others': a small whole one each, and all that reads it."""

import contextlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from forgery import RUN, add_judgement, add_stage, copy_run, seal_checkpoint, write_manifest
from ldm.core import artifacts, files
from ldm.core.artifacts import IDENTITY, MANIFEST, Identity, open_artifact
from ldm.core.autoencoders import registry
from ldm.core.autoencoders.pretrained import CONFIG
from ldm.core.data.shards import INDEX, LatentSet, check_index, read_shard
from ldm.core.denoisers import noisy_classifier
from ldm.core.denoisers import registry as denoisers
from ldm.core.exchange import checkpoint as authors
from ldm.core.exchange import pipeline
from ldm.core.metrics import classifier, frechet, mobilenet
from ldm.core.metrics.features import open_extractor
from ldm.core.progress import Silent
from ldm.core.training import checkpoint, loop
from ldm.stages import encode, eval, export, import_model, inspect, report, sample, story, sweep, train_dit, verify
from ldm.stages.commands import COMMANDS
from ldm.stages.configs import NOISY
from ldm.stages.handover import occupied
from ldm.stages.latent_sets import open_latents, read_latents
from ldm.stages.model_card import look_for
from mutations import mutate_bytes, mutate_header, mutate_json, mutate_lines, mutate_tar, mutate_yaml
from parsers import Parser, Read
from regression import FP32, PLAN, Regression

STAGES = ("vqvae", "latents", "dit", "classifier", NOISY, "samples/some", "eval/some")
STATE = f"{checkpoint.FOLDER}/0000000008"
SMALL = {"width": 8, "depth": 1, "heads": 1}


def make_run(folder: Path) -> None:
    """The kept run with classifiers and a judgement, which it lacks."""
    run = copy_run(folder)
    torch.manual_seed(0)
    judge = classifier.Classifier(classifier.ClassifierConfig(3, 16, channels=(8, 8)))
    classifier.save(judge, run / "classifier" / "final", ("blue", "green", "red"), {"accuracy": 0.5})
    noisy = noisy_classifier.NoisyClassifier(noisy_classifier.NoisyClassifierConfig(4, 4, 3, **SMALL))
    noisy_classifier.save(noisy, run / NOISY / "final")
    facts = json.loads((run / "dit" / MANIFEST).read_bytes())["facts"]
    known = {name: facts[name] for name in ("class_names", "latent_shape", "diffusion")}
    names = ("final/config.json", "final/model.safetensors")
    add_stage(run, "classifier", "train-classifier", {**known, "accuracy": 0.5}, {}, *names)
    made_of = {"latents": "latents", "autoencoder": "vqvae"}
    add_stage(run, NOISY, "train-classifier", {**known, "accuracy": {"val_accuracy": 0.5}}, made_of, *names)
    sampling = {"sampler": "ddim", "steps": 2, "cfg": 3.0}
    conditions = {"extractor": "classifier", "weights_sha256": "0" * 64, "resize": "none", "sampling": sampling}
    conditions |= {"n_samples": 3, "n_reference": 7, "reference": "squares"}
    numbers = {"frechet_distance[classifier]": 1.5, "class_accuracy[classifier]": 0.5}
    judged = {"of": "samples", "numbers": numbers, "real_against_real": numbers, "conditions": conditions}
    add_judgement(run, "some", judged)


def seal_run(folder: Path, name: str) -> None:
    """Put the hashes of a run right, from the autoencoder on, as far as what was harmed can still be read."""
    run = folder / RUN
    fingerprints: dict[str, str] = {}
    for stage in STAGES:
        where = run / stage
        for network in where.glob("final/config.json"):
            with contextlib.suppress(Exception):
                described = json.loads(network.read_bytes())
                if name == f"{RUN}/{stage}/final/model.safetensors":
                    described["weights_sha256"] = files.sha256_file(network.with_name("model.safetensors"))
                    network.write_text(json.dumps(described))
        with contextlib.suppress(Exception):
            _seal_stage(where, fingerprints, harmed=run / name.removeprefix(f"{RUN}/"))
    for saved in run.glob(f"*/{checkpoint.FOLDER}/*"):
        if name.startswith(saved.relative_to(folder).as_posix()) and not name.endswith(MANIFEST):
            seal_checkpoint(saved)


def _seal_stage(where: Path, fingerprints: dict[str, str], harmed: Path) -> None:
    text = (where / MANIFEST).read_bytes().decode()
    manifest = json.loads(text)
    manifest.pop("manifest_sha256", None)
    if harmed == where / MANIFEST:
        # Its text stays as odd as it is; a last entry overrules those before it.
        own = f', "manifest_sha256": "{files.sha256_json(manifest)}"'
        (where / MANIFEST).write_text(f"{text.rstrip()[:-1]}{own}}}")
    else:
        for file in [*manifest["files"]]:
            path = where / file
            manifest["files"][file] = {"bytes": path.stat().st_size, "sha256": files.sha256_file(path)}
        identity = json.loads((where / IDENTITY).read_bytes())
        for role, entry in manifest["inputs"].items():
            if role in fingerprints:
                entry["fingerprint"] = identity["inputs"][role]["fingerprint"] = fingerprints[role]
        write_manifest(where, manifest)
        if harmed != where / IDENTITY:
            (where / IDENTITY).write_text(json.dumps(identity))
    role = {"vqvae": "autoencoder", "dit": "denoiser", "some": "samples"}.get(where.name, where.name)
    fingerprints[role] = files.sha256_json(manifest["files"])


COMMANDS_WITHOUT_RUN = ("inspect", "verify")


def config(command: str, folder: Path, **settings: Any) -> Any:
    layers = {} if command in COMMANDS_WITHOUT_RUN else {"name": RUN, "runs_dir": folder}
    if "machine" in COMMANDS[command].model_fields:
        layers["machine"] = {"device": "cpu"}
    return COMMANDS[command].model_validate({**layers, **settings})


def looking(folder: Path) -> None:
    for stage in STAGES:
        inspect.run(config("inspect", folder, path=folder / RUN / stage), Silent())
    inspect.run(config("inspect", folder, path=folder / RUN), Silent())


def verifying(folder: Path) -> None:
    verify.run(config("verify", folder, path=folder / RUN), Silent())


def sampling(folder: Path) -> None:
    sample.run(config("sample", folder, num=1, classes="0", steps=1, label="new"), Silent())


def guiding(folder: Path) -> None:
    guides = {"autoguide": folder / RUN / "dit", "classifier_scale": 1.0}
    sample.run(config("sample", folder, num=1, classes="0", steps=1, label="new", cfg=1, **guides), Silent())


def denoising(folder: Path) -> None:
    """All that training does with what it is handed, but the training."""
    settings = config("train-dit", folder, model={**SMALL, "patch_size": 2}, train={"batch_size": 4})
    latents, source = open_latents(None, settings)
    with occupied(folder / RUN / "other", settings.machine) as policy:
        trained = train_dit.load_autoencoder(source, policy)
        task = train_dit.DenoisingTask(settings, latents, trained, policy)
        task.load(loop.Batch(np.arange(4), np.arange(4), 0))
        task.validate()


def encoding(folder: Path) -> None:
    """All that encoding is handed but the images."""
    settings = config("encode", folder)
    source = encode.autoencoder_artifact(folder / RUN / "vqvae", settings)
    encode.inherit_data(settings, source)
    encode.load_autoencoder(source, FP32)


def judging(folder: Path) -> None:
    """All that a judgement is handed."""
    settings = config("eval", folder, samples="some")
    made = eval._made_by_us(eval._samples_folder(settings), settings)
    assert made is not None
    eval._run_data(settings, made)
    source = eval._labelled(made)
    source.image(0)
    assert int(source.labels.max()) < len(source.class_names)
    eval.feature_extractor(settings, FP32, "some")
    eval._conditions(made, made.path)


def telling(folder: Path) -> None:
    for kind in story.folders(folder / RUN).values():
        report._card(kind)
        [kind.curve(name) for name in ("loss", "val_loss")]
        report._colophon({kind.kind: kind})
    report._subtitle(story.folders(folder / RUN))
    list(report._tables(story.judgements(folder / RUN)))


def reporting(folder: Path) -> None:
    report.run(config("report", folder), Silent())


def showing(folder: Path) -> None:
    opened = export._open(config("export", folder, directory=folder / "out"))
    shown = look_for(folder / RUN, opened.denoiser)
    str(shown.fingerprint)


def comparing(folder: Path) -> None:
    judged = open_artifact(folder / RUN / "eval" / "some", "eval", "ldm eval")
    drawn = open_artifact(folder / RUN / "samples" / "some", "samples", "ldm sample")
    point = sweep.Point(3.0, 2, drawn.path, judged.path)
    row = sweep._row(point, judged)
    sweep._told(row), sweep._as_csv([row])


def drawing_comparison(folder: Path) -> None:
    judged = open_artifact(folder / RUN / "eval" / "some", "eval", "ldm eval")
    drawn = open_artifact(folder / RUN / "samples" / "some", "samples", "ldm sample")
    point = sweep.Point(3.0, 2, drawn.path, judged.path)
    sweep._draw_curves([sweep._row(point, judged)], folder / "curves.png")
    sweep._draw_grid([point], [drawn], folder / "grid.png")


def claiming(folder: Path) -> None:
    """As the same command does that finds its folder there already."""
    for stage in ("dit", "latents"):
        known = json.loads((Path(__file__).with_name("old_files") / "schema-1" / stage / IDENTITY).read_bytes())
        wanted = Identity(known["kind"], "ldm x", known["config"], known["inputs"], "x: 1\n", known["config"])
        artifacts.claim(folder / RUN / stage, wanted)


def claiming_unfinished(folder: Path) -> None:
    for stage in ("dit", "latents"):
        (folder / RUN / stage / MANIFEST).unlink()
    claiming(folder)


def looking_unfinished(folder: Path) -> None:
    for stage in STAGES:
        (folder / RUN / stage / MANIFEST).unlink()
    looking(folder)
    telling(folder)


def verifying_unfinished(folder: Path) -> None:
    (folder / RUN / "latents" / MANIFEST).unlink()
    (folder / RUN / "samples" / "some" / MANIFEST).unlink()
    with contextlib.suppress(files.UserError):  # It always refuses what is unfinished.
        verifying(folder)


def mapping_latents(folder: Path) -> None:
    """Straight from the shards, as behind a manifest that agrees."""
    latents = folder / RUN / "latents"
    for split, names in (("train", ["shard-000000.tar"]), ("val", ["val-000000.tar"])):
        found = LatentSet(latents, split, names, (4, 4, 4))
        for row in range(min(len(found), 9)):
            found.batch(np.array([row]), np.array([row % 2 == 0]) if found.has_flip else None)


def checking_latents(folder: Path) -> None:
    for path in sorted((folder / RUN / "latents").glob("*.tar")):
        for _ in read_shard(path):
            pass
    check_index(folder / RUN / "latents", {"train": ["shard-000000.tar"], "val": ["val-000000.tar"]})


def reading_latents(folder: Path) -> None:
    settings = config("train-dit", folder)
    latents, _ = open_latents(None, settings)
    latents.verify()
    sets = read_latents(latents)
    sets.train.batch(np.arange(len(sets.train)))


def loading(folder: Path) -> None:
    run = folder / RUN
    registry.load(run / "vqvae" / "final").decode(torch.zeros(1, 4, 4, 4))


def loading_denoiser(folder: Path) -> None:
    model = denoisers.load(folder / RUN / "dit" / "final")
    model(torch.zeros(1, 4, 4, 4), torch.zeros(1), torch.zeros(1, dtype=torch.int64))


def loading_classifiers(folder: Path) -> None:
    loaded = classifier.load(folder / RUN / "classifier" / "final")
    loaded.network(torch.zeros(1, 3, 16, 16))
    open_extractor("classifier", folder / RUN / "classifier" / "final", torch.device("cpu"))
    noisy = noisy_classifier.load(folder / RUN / NOISY / "final")
    noisy(torch.zeros(1, 4, 4, 4), torch.zeros(1))


def make_training(folder: Path) -> None:
    loop.train(Regression(), PLAN, FP32, folder, Silent())
    for path in folder.glob("*.png"):
        path.unlink()


def going_on(folder: Path) -> None:
    """Take up the newest checkpoint as training does."""
    loop._Session(Regression(), PLAN, FP32, folder, Silent())


def looking_at_checkpoint(folder: Path) -> None:
    for saved in checkpoint.saved(folder):
        inspect.run(config("inspect", folder, path=saved), Silent())


def seal_training(folder: Path, name: str) -> None:
    if not name.endswith(MANIFEST):
        for saved in checkpoint.saved(folder):
            seal_checkpoint(saved)
    else:
        with contextlib.suppress(Exception):
            path = folder / name
            text = path.read_text()
            own = f', "sha256": "{files.sha256_json(json.loads(text)["files"])}"'
            path.write_text(f"{text.rstrip()[:-1]}{own}}}")


def make_pipeline(folder: Path) -> None:
    import diffusers

    torch.manual_seed(0)
    transformer = diffusers.DiTTransformer2DModel(
        num_attention_heads=1, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=4, norm_eps=1e-6
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(8,), norm_num_groups=4, sample_size=4, latent_channels=4, layers_per_block=1
    )
    built = diffusers.DiTPipeline(transformer, vae, diffusers.DDIMScheduler(), id2label={"0": "cat, pet", "1": "dog"})
    built.register_to_config(id2label={"0": "cat, pet", "1": "dog"})
    built.save_pretrained(folder / "pipe", safe_serialization=True)


def importing(folder: Path) -> None:
    settings = config("import", folder, path=folder / "pipe")
    given = import_model._open(settings, Silent())
    autoencoder = import_model._load_autoencoder(given.autoencoder, Silent())
    import_model._facts(settings, given.denoiser, autoencoder, import_model._names(settings, given))
    import_model._denoiser_facts(settings, given)
    autoencoder.decode(torch.zeros(1, 4, 4, 4))


def taking_autoencoder(folder: Path) -> None:
    given = registry.load(folder / "pipe" / "vae")
    given.latent_shape(16)
    given.encode(torch.zeros(1, 3, 16, 16))


def make_authors(folder: Path) -> None:
    from authors_dit import checkpoint_of

    raise NotImplementedError(checkpoint_of)


RUN_PARSERS: dict[str, Parser] = {}


def _harms(mutate: Callable[..., bytes], pattern: str, stages: tuple[str, ...] = STAGES) -> dict[str, Any]:
    return {f"{RUN}/{stage}/{pattern}": mutate for stage in stages}


_RUN: tuple[Read, ...] = (looking, verifying, sampling, guiding, denoising, judging, telling, showing, comparing)
_ALL = {"make": make_run, "seal": seal_run}
_NETWORKS = ("vqvae", "dit", "classifier", NOISY)
RUN_PARSERS |= {
    "manifest": Parser(
        harms=_harms(mutate_json, MANIFEST), readers=(*_RUN, encoding), rarely=(reporting, drawing_comparison), **_ALL
    ),
    "identity": Parser(
        harms=_harms(mutate_json, IDENTITY, STAGES[:5]),
        readers=(looking, verifying, claiming, claiming_unfinished, looking_unfinished),
        **_ALL,
    ),
    "config": Parser(
        harms=_harms(mutate_yaml, "config.yaml", STAGES[:5]),
        readers=(looking, verifying, looking_unfinished, verifying_unfinished),
        **_ALL,
    ),
    "shard": Parser(
        harms=_harms(mutate_tar, "shard-000000.tar", ("latents",)),
        readers=(mapping_latents, checking_latents, reading_latents, verifying, verifying_unfinished),
        **_ALL,
    ),
    "index": Parser(
        harms=_harms(mutate_header, INDEX, ("latents",)),
        readers=(mapping_latents, checking_latents, reading_latents, verifying, denoising),
        **_ALL,
    ),
    "network-config": Parser(
        harms=_harms(mutate_json, "final/config.json", _NETWORKS),
        readers=(loading, loading_denoiser, loading_classifiers, looking, verifying, sampling, guiding, judging),
        **_ALL,
    ),
    "safetensors": Parser(
        harms=_harms(mutate_header, "final/model.safetensors", _NETWORKS),
        readers=(loading, loading_denoiser, loading_classifiers, looking, verifying, sampling),
        **_ALL,
    ),
    "judgement": Parser(
        harms=_harms(mutate_json, "metrics.json", ("eval/some",)),
        readers=(telling, showing, comparing),
        rarely=(reporting, drawing_comparison),
        **_ALL,
    ),
    "metrics-of-run": Parser(
        harms=_harms(mutate_lines, "metrics.jsonl", ("dit",)), readers=(telling,), rarely=(reporting,), **_ALL
    ),
    "checkpoint": Parser(
        make_training,
        {
            f"checkpoints/0000000028/{name}": mutate
            for name, mutate in {
                "state.json": mutate_json,
                MANIFEST: mutate_json,
                "model.safetensors": mutate_header,
                "optimizer.safetensors": mutate_header,
            }.items()
        },
        (going_on, looking_at_checkpoint),
        seal_training,
    ),
    "pipeline": Parser(
        make_pipeline,
        {
            f"pipe/{name}": mutate_json
            for name in (
                "model_index.json",
                "scheduler/scheduler_config.json",
                "transformer/config.json",
                "vae/config.json",
            )
        },
        (importing, importing, taking_autoencoder),
    ),
    "pipeline-weights": Parser(
        make_pipeline,
        {f"pipe/{name}/diffusion_pytorch_model.safetensors": mutate_header for name in ("transformer", "vae")},
        (importing, taking_autoencoder),
    ),
}
del asdict, STATE, authors, pipeline, frechet, mobilenet, mutate_bytes, CONFIG
