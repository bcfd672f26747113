"""Product photos as shops take them: different garments, each photographed once, all on one and the same cloth."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

CLOTH = (196, 188, 176)
PALETTE = ((238, 236, 230), (32, 32, 36), (36, 48, 92), (150, 148, 146), (170, 60, 56), (206, 186, 150), (70, 96, 78))
# Outlines in units of the photo's side, around (0.5, 0.5).
OUTLINES = {
    "dress": [(-0.1, -0.4), (0.1, -0.4), (0.13, -0.1), (0.27, 0.42), (-0.27, 0.42), (-0.13, -0.1)],
    "jacket": [(-0.12, -0.36), (0.12, -0.36), (0.4, -0.05), (0.34, 0.2), (0.2, 0.02), (0.2, 0.38), (-0.2, 0.38),
               (-0.2, 0.02), (-0.34, 0.2), (-0.4, -0.05)],
    "skirt": [(-0.16, -0.28), (0.16, -0.28), (0.3, 0.3), (-0.3, 0.3)],
    "t-shirt": [(-0.13, -0.33), (0.13, -0.33), (0.38, -0.12), (0.3, 0.02), (0.2, -0.06), (0.2, 0.36), (-0.2, 0.36),
                (-0.2, -0.06), (-0.3, 0.02), (-0.38, -0.12)],
    "trousers": [(-0.17, -0.4), (0.17, -0.4), (0.21, 0.42), (0.05, 0.42), (0.0, -0.1), (-0.05, 0.42), (-0.21, 0.42)],
}  # fmt: skip


def cloth(side: int) -> np.ndarray:
    """Return the cloth, float (side, side, 3): a weave, a few creases, and the light of one lamp."""
    y, x = np.mgrid[:side, :side] / side
    weave = 5 * np.sin(2 * np.pi * 30 * x) * np.sin(2 * np.pi * 30 * y)
    creases = 7 * np.sin(9 * x + 4 * y) + 5 * np.sin(14 * y - 3 * x)
    light = 26 * np.exp(-3 * ((x - 0.4) ** 2 + (y - 0.35) ** 2)) - 30 * ((x - 0.5) ** 2 + (y - 0.5) ** 2)
    return np.array(CLOTH) + (weave + creases + light)[:, :, None]


def garment(kind: str, number: int, side: int = 128) -> Image.Image:
    """Return the photo of one garment: its own cut, place, colour, folds, and often a print or stripes."""
    own = np.random.default_rng([sorted(OUTLINES).index(kind), number])
    turn, size = own.normal(0, 0.03), own.normal(1, 0.04)
    rotation = size * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = np.array(OUTLINES[kind]) @ rotation.T + 0.5 + own.normal(0, 0.012, 2)
    points += own.normal(0, 0.01, points.shape)
    outline = Image.new("L", (4 * side, 4 * side))
    ImageDraw.Draw(outline).polygon([tuple(point) for point in points * 4 * side], fill=255)
    mask = np.asarray(outline.resize((side, side), Image.Resampling.BOX), dtype=float)[:, :, None] / 255

    colour = np.array(PALETTE[own.integers(len(PALETTE))], dtype=float) + own.normal(0, 4, 3)
    noise = Image.fromarray(own.integers(0, 256, (side // 8, side // 8), dtype=np.uint8))
    folds = np.asarray(noise.resize((side, side), Image.Resampling.BICUBIC), dtype=float)[:, :, None] / 255 - 0.5
    fabric = colour + 26 * folds
    y, x = np.mgrid[:side, :side] / side
    if number % 4 == 1:
        fabric = fabric + own.normal(0, 16) * np.sign(np.sin(2 * np.pi * own.uniform(8, 20) * x))[:, :, None]
    if number % 4 == 3:
        spot = np.hypot(x - 0.5, y - own.uniform(0.4, 0.5)) < own.uniform(0.04, 0.09)
        fabric = np.where(spot[:, :, None], own.uniform(0, 255, 3), fabric)
    shadow = np.asarray(outline.resize((side, side)).filter(ImageFilter.GaussianBlur(3)), dtype=float)[:, :, None] / 255
    photo = cloth(side) * (1 - 0.25 * shadow) * (1 - mask) + fabric * mask + own.normal(0, 2, (side, side, 3))
    return Image.fromarray(photo.clip(0, 255).astype(np.uint8))


def write_garments(folder: Path, per_class: int, copies: int = 0, side: int = 128) -> list[set[str]]:
    """Write a folder of class folders, JPEG; return the names of each true pair of copies.

    copies: how many of each class are there twice, once of three quarters of the size and lower quality.
    """
    pairs = []
    for kind in sorted(OUTLINES):
        (folder / kind).mkdir(parents=True)
        for number in range(per_class):
            photo = garment(kind, number, side)
            photo.save(folder / kind / f"{number:04d}.jpg", quality=90)
            if number < copies:
                photo.resize((3 * side // 4, 3 * side // 4)).save(folder / kind / f"{number:04d}-small.jpg", quality=70)
                pairs.append({f"{kind}/{number:04d}.jpg", f"{kind}/{number:04d}-small.jpg"})
    return pairs
