"""LeNet-5 (LeCun et al. 1998) for MNIST digits, with ReLU and max pooling, from one published weights file."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..runs.weights import load_into, read_known_pth
from .extractor import Extractor, resize

WEIGHTS = "lenet_epoch=12_test_acc=0.991.pth"
SHA256 = "7b3591ba5a63752a7e728d7f7e511266556a2ec66844810da9f475e07019b85e"
SIZE = 32
DIM = 84
CLASS_NAMES = tuple("0123456789")
REMEDY = f"give the file {WEIGHTS} of github.com/csinva/gan-vae-pretrained-pytorch (mnist_classifier/weights)"


class LeNet5(nn.Module):
    """Grey images (B, 1, 32, 32) in [0, 1] → features (B, 84) of the last hidden layer, logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.convnet = nn.ModuleDict({"c1": nn.Conv2d(1, 6, 5), "c3": nn.Conv2d(6, 16, 5), "c5": nn.Conv2d(16, 120, 5)})
        self.fc = nn.ModuleDict({"f6": nn.Linear(120, 84), "f7": nn.Linear(84, 10)})

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = F.max_pool2d(F.relu(self.convnet["c1"](images)), 2)
        x = F.max_pool2d(F.relu(self.convnet["c3"](x)), 2)
        x = F.relu(self.convnet["c5"](x)).flatten(1)
        features = F.relu(self.fc["f6"](x))
        return features, self.fc["f7"](features)


def open_lenet(path: Path, device: torch.device) -> Extractor:
    """Open the network with the published file or the folder that holds it.

    Raises DataError naming the file when it is missing or its sha256 differs.
    """
    file = path / WEIGHTS if path.is_dir() else path
    network = LeNet5()
    load_into(network, read_known_pth(file, SHA256, REMEDY), file, REMEDY)
    network.eval().requires_grad_(False).to(device)

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        grey = (images.mean(1, keepdim=True) + 1) / 2
        features, logits = network(resize(grey, SIZE))
        return features, logits

    return Extractor("lenet", DIM, SHA256, f"mean of RGB, bilinear antialias {SIZE}", CLASS_NAMES, device, run)
