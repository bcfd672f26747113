"""Real weights of MobileNetV2, in the layout of torchvision's file, made from TensorFlow's in `shared/weights`."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ldm.core.features.mobilenet import MEAN, STD, MobileNetV2


def write_turned_mobilenet(shared: Path, path: Path) -> Path:
    """Write the weights, as safetensors, for pictures turned by half a turn. Returns the file.

    TensorFlow pads what is halved at the bottom and right, torch on all sides: of turned pictures, with turned kernels,
    they make the same; pictures that are not turned are seen upside down. Normalisations are folded into TensorFlow's
    weights, and its class 0 is the background.
    """
    given = load_file(shared / "weights" / "mobilenet-v2-imagenet" / "mobilenet_v2_fp16.safetensors")
    names = sorted({name.partition(".")[0] for name in given})
    network = MobileNetV2()
    state = network.state_dict()
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    for number, (name, conv, norm) in enumerate(zip(names[:-1], convolutions, norms, strict=True)):
        weight, bias = given[f"{name}.weight"].float(), given[f"{name}.bias"].float()
        if number == 0:  # From pixels in [-1, 1] to pixels less their mean, over their deviation.
            mean, std = torch.tensor(MEAN).view(3, 1, 1), torch.tensor(STD).view(3, 1, 1)
            bias = bias + (weight * (2 * mean - 1)).sum((1, 2, 3))
            weight = weight * 2 * std
        state[f"{conv}.weight"] = weight.flip(2, 3)
        state[f"{norm}.bias"] = bias
        state[f"{norm}.running_var"] = torch.full_like(bias, 1 - 1e-5)  # With its eps, a division by 1.
    last = names[-1]
    state["classifier.1.weight"] = given[f"{last}.weight"].float()[1:, :, 0, 0]
    state["classifier.1.bias"] = given[f"{last}.bias"].float()[1:]
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)
    return path
