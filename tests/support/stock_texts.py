"""What the code on a model card draws where `ldm` cannot be imported.

Arguments: a folder of an export, a .npy with the noise to start from (B, C, h, w), one image for each prompt, a JSON
with the prompts, guidance scale and steps, and where to write the images, a .npy (B, H, W, 3) in [0, 1]. Several fours.
"""

import json
import re
import sys
from pathlib import Path
from runpy import run_path
from typing import Any

import numpy as np

STEPS = r"(num_inference_steps=|range\(|- i / |set_timesteps\()\d+"


def draw(folder: str, noise: np.ndarray, asked: dict[str, Any]) -> np.ndarray:
    """Run the card's code for each prompt, changed only in the folder, noise, prompt, guidance and steps."""
    import torch

    card = (Path(folder) / "README.md").read_text()
    code = card.split("````python\n")[1].split("\n````")[0].replace("PATH OF THIS FOLDER", folder)
    code = re.sub(STEPS, rf"\g<1>{asked['steps']}", code)
    code = re.sub(r"guidance_scale=[\d.]+", f"guidance_scale={asked['guidance']}", code)
    code = re.sub(r"null \+ [\d.]+ \*", f"null + {asked['guidance']} *", code)
    images = []
    for number, prompt in enumerate(asked["prompts"]):
        start = torch.from_numpy(noise[number : number + 1])
        own = re.sub(r"pipe\((?:'[^']*'|\"[^\"]*\")", lambda _, prompt=prompt: f"pipe({prompt!r}", code)  # type: ignore
        own = own.replace('x, t, "0")', f'x, t, "{number}")').replace("images = pipe(", "images = pipe(latents=noise, ")
        own = re.sub(r"pipe\(latents=noise, ('[^']*'|\"[^\"]*\")", r"pipe(\1, latents=noise, output_type='np'", own)
        own = re.sub(r"torch\.randn\([^)]*\)", "noise", own)
        names: dict[str, Any] = {"noise": start}
        with torch.set_grad_enabled(torch.is_grad_enabled()):  # The code switches gradients off for good.
            exec(own, names)
        found = names["images"]
        images.append(found[0].permute(1, 2, 0).numpy() if isinstance(found, torch.Tensor) else found[0])
    return np.stack(images)


def main(*words: str) -> None:
    """Draw what files say, in a process that has no `ldm`."""
    # A program of its own, which may import nothing of the project: it runs the other one's file.
    run_path(str(Path(__file__).with_name("stock_diffusers.py")))["shut_out_ldm"]()
    for start in range(0, len(words), 4):
        folder, noise, asked, result = words[start : start + 4]
        np.save(result, draw(folder, np.load(noise), json.loads(Path(asked).read_text())))


if __name__ == "__main__":
    main(*sys.argv[1:])
