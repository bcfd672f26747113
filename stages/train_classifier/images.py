"""`ldm train-classifier` on images: a small classifier out, in whose features samples are measured."""

from ...core.distributed import processes
from ...core.errors import DataError
from ...core.features import classifier
from ...core.images.sets import image_sources, inherit_data
from ...core.progress import Outcome, Progress, number_of
from ...core.runs.inputs import open_own, own_folders
from ...core.runs.outputs import claim, command_line, occupied, output_folder
from ...core.runs.roles import AUTOENCODER, CLASSIFIER
from ...core.runs.run import MANIFEST
from ...core.training import loop
from ...core.training.start import open_start
from ...core.training.tasks.classifying import ClassifyingTask
from ..configs import TrainClassifier


def run(config: TrainClassifier, progress: Progress) -> Outcome:
    """Train a classifier on a run's images or others. Returns its folder."""
    folder = output_folder(config)
    with occupied(folder, config.machine, config.train) as policy:
        if config.autoencoder or any((path / MANIFEST).exists() for path in own_folders(AUTOENCODER, config.root)):
            config = inherit_data(config, open_own(AUTOENCODER, config, config.autoencoder, "autoencoder"))
        sources = image_sources(config.data)
        if len(sources.train.class_names) < 2:
            raise DataError(
                f"{sources.train.location} has one class: a classifier needs two or more",
                "give labelled images, or evaluate with `features=inception`; a recipe of captions has"
                " `without: [train-classifier]`",
            )
        start = open_start(CLASSIFIER, config, inputs := sources.inputs, folder)
        work = claim(folder, config, inputs, progress)
        next_commands = [command_line("eval", config)]
        if work.complete:
            return Outcome(folder, already_complete=True, next_commands=next_commands)
        images = sources.read(progress)
        task = ClassifyingTask(config, images, policy)
        if start is not None:
            start.load(task.network, images.class_names, progress)
        plan = loop.Plan(**config.train.model_dump(), seed=config.seed)
        metadata = loop.train(task, plan, policy, folder, progress)
        if not processes.world().is_main:
            return Outcome(folder)
        metadata["accuracy"] = task.validate()["val_accuracy"]
        metadata["class_names"] = list(images.class_names)
        classifier.save(task.network, folder / "final", images.class_names, {"accuracy": metadata["accuracy"]})
        classifier.warn_if_weak(metadata["accuracy"], classifier.KIND, progress)
        work.commit(["final/model.safetensors", "final/config.json"], metadata)
    summary = {"validation accuracy": f"{metadata['accuracy']:.2%} of {number_of(len(images.val), 'image')}"}
    return Outcome(folder, summary=summary, pictures=[folder / "loss.png"], next_commands=next_commands)
