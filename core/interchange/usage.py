"""Code in which stock classes of diffusers draw from an export, for its model card."""

import inspect
from collections.abc import Sequence

from ..conditioning.conditioning import Request
from ..conditioning.text import TextConditioning
from ..pipeline.model import Model
from .pipeline import STATISTICS, Parts
from .prompts import NEGATIVE, PROMPTS
from .scheduler import FLOW_MATCH

FOLDER = "PATH OF THIS FOLDER"


def code_of(model: Model, parts: Parts, request: Request | None, guidance: float, image_size: int) -> str:
    """Return Python that draws an image. request: the prompts that are given as tensors, if they are."""
    steps = 50 if model.student is None else model.student.steps
    if request is not None:
        return _with_tensors(model, parts, request, guidance, steps)
    asked = {"guidance_scale": f"{guidance:g}", "num_inference_steps": str(steps)}
    absent: Sequence[str] = ()
    prompt = ""
    if isinstance(model.conditioning, TextConditioning):
        described = model.conditioning.encoder
        prompt = repr(model.conditioning.groups().titles[0]) + ", "
        absent = parts.stock.absent(described)
        asked |= {"height": str(image_size), "width": str(image_size)}
        asked |= parts.stock.options(described, model.conditioning.length)
        if type(parts.scheduler).__name__ == FLOW_MATCH:
            del asked["num_inference_steps"]
            asked["sigmas"] = _sigmas(steps)
    elif model.conditioning.class_names:
        asked = {"class_labels": "[0]", **asked}
    else:
        asked = {"batch_size": "1", "num_inference_steps": str(steps)}
    name = parts.stock.name
    loading = "".join(f", {each}=None" for each in absent)
    return (
        "import torch\n"
        f"from diffusers import {name}\n"
        "\n"
        f'pipe = {name}.from_pretrained("{FOLDER}", torch_dtype=torch.float32{loading})\n'
        f"images = pipe({prompt}{', '.join(f'{key}={value}' for key, value in asked.items())}).images"
    )


def _sigmas(steps: int) -> str:
    return f"[1 - i / {steps} for i in range({steps})]"


def _with_tensors(model: Model, parts: Parts, request: Request, guidance: float, steps: int) -> str:
    """Return a loop over the steps: prompts of other lengths do not go together into a network that has no mask."""
    network, vae, stepper = (type(each).__name__ for each in (parts.network, parts.autoencoder, parts.scheduler))
    has_null = model.conditioning.has_null
    given = "encoder_hidden_states=text[f'{name}.prompt_embeds']"
    if "pooled_projections" in _arguments(parts.network):
        given += ", pooled_projections=text[f'{name}.pooled_prompt_embeds']"
    latents = f'latents = load_file(f"{{folder}}/{STATISTICS}")\n' if parts.statistics is not None else ""
    raw = "x * latents['std'] + latents['mean']" if latents else "x / vae.config.scaling_factor"
    times = f"sigmas={_sigmas(steps)}" if stepper == FLOW_MATCH else str(steps)
    mean = f"[:, :{model.latent_shape[0]}]" if model.diffusion.learn_variance else ""
    conditioned = (
        f'    prompt, null = predict(x, t, "0"), predict(x, t, "{NEGATIVE}")\n'
        f"    x = scheduler.step(null + {guidance:g} * (prompt - null), t, x).prev_sample\n"
        if has_null
        else '    x = scheduler.step(predict(x, t, "0"), t, x).prev_sample\n'
    )
    return (
        "import torch\n"
        f"from diffusers import {vae}, {stepper}, {network}\n"
        "from safetensors.torch import load_file\n"
        "\n"
        f'folder = "{FOLDER}"\n'
        f'network = {network}.from_pretrained(folder, subfolder="{parts.stock.network}").eval()\n'
        f'vae = {vae}.from_pretrained(folder, subfolder="{parts.stock.autoencoder}").eval()\n'
        f'scheduler = {stepper}.from_pretrained(folder, subfolder="scheduler")\n'
        f'text = load_file(f"{{folder}}/{PROMPTS}")  # "0" is {request.titles[0]!r}\n'
        f"{latents}"
        "\n"
        "def predict(x, t, name):\n"
        f"    return network(x, timestep=t[None], {given}).sample{mean}\n"
        "\n"
        f"x = torch.randn(1, {', '.join(map(str, model.latent_shape))})\n"
        f"scheduler.set_timesteps({times})\n"
        "torch.set_grad_enabled(False)\n"
        "for t in scheduler.timesteps:\n"
        f"{conditioned}"
        f"images = vae.decode({raw}).sample.clamp(-1, 1) / 2 + 0.5"
    )


def _arguments(network: object) -> set[str]:
    return set(inspect.signature(network.forward).parameters)  # type: ignore[attr-defined]
