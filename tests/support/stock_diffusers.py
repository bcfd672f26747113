"""What stock diffusers makes of an exported folder; run as a program, where `ldm` cannot be imported.

Arguments, three for each folder: the folder, a .npz with what to feed it, and where to write what came out. Imports
nothing of the project.
"""

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np


class Nowhere:
    """Finds no `ldm`."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        if name.partition(".")[0] == "ldm":
            raise ModuleNotFoundError(f"no module named {name!r}")


def draw(folder: str, feed: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Load the pipeline and return the transformer's output, images in [0, 1] (N, H, W, 3), and its class names."""
    import torch
    from diffusers import DiTPipeline
    from diffusers.pipelines.dit import pipeline_dit

    pipe = DiTPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        x, timesteps = torch.from_numpy(feed["x"]), torch.from_numpy(feed["timesteps"])
        output = pipe.transformer(x, timesteps, class_labels=torch.from_numpy(feed["classes"])).sample
    drawn_noise = pipeline_dit.randn_tensor
    # The pipeline takes no noise to start from.
    pipeline_dit.randn_tensor = lambda shape, **_: torch.from_numpy(feed["noise"]).reshape(shape)
    try:
        images = pipe(
            class_labels=feed["labels"].tolist(),
            guidance_scale=float(feed["guidance"]),
            num_inference_steps=int(feed["steps"]),
            output_type="np",
        ).images
    finally:
        pipeline_dit.randn_tensor = drawn_noise
    names = sorted(pipe.labels, key=pipe.labels.__getitem__)
    return {"output": output.numpy(), "images": images, "names": np.array(names)}


def shut_out_ldm() -> None:
    """Let nothing of `ldm` be imported from here on, and torch compute in one thread."""
    sys.meta_path.insert(0, Nowhere())  # type: ignore[arg-type]
    try:
        import ldm  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError("ldm can be imported")
    import torch

    torch.set_num_threads(1)


def main(*words: str) -> None:
    """Draw what files say, in a process that has no `ldm`."""
    shut_out_ldm()
    for folder, given, result in zip(words[::3], words[1::3], words[2::3], strict=True):
        np.savez(result, **draw(folder, np.load(given)))  # type: ignore[arg-type]


if __name__ == "__main__":
    main(*sys.argv[1:])
