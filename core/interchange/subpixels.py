"""Pixel shuffle out of the stock layers of diffusers' decoder, which has none.

Our decoder ends in a convolution to patch² images at a lower resolution, whose pixels are then interleaved. The stock
one can only repeat pixels and convolve, which treats all places alike: nothing in it knows whether a pixel is the left
or the right one of two. Two constructions, in channels of their own beside ours, supply that without an approximation
but rounding.

**Ramps.** Zeros are padded at the borders, and only there. Steps a ← 1 + (a's neighbour) count the distance to a border
one pixel per convolution; those from two opposite borders meet in the middle, and their difference is the coordinate
q = 1, 2 … of each pixel. With pixels repeated, q(x) − q(x − 1) is 1 on the first of two and 0 on the second, and
q(x) + q(x − 1) is the coordinate at the new resolution.

**Gates.** SiLU is the identity on pairs, silu(z) − silu(−z) = z, and silu(±z − K) = 0 where K is large: K times the
number of wrong coordinate bits leaves each pixel the one image that belongs there. A normalisation in between changes
nothing where its group's statistics are known: those of ramps are, and those of a pair ±z are drowned by constants ±M
in its group, up to z² / 2M².
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

GAIN = 32.0  # at which silu(GAIN n) = GAIN n for whole n to more digits than float32 has
BARRIER = 32.0
DROWN = 256.0  # z² / 2M² and the rounding of M are both some 1e-6 of the image
REFERENCE = 16.0  # a constant that keeps the variance of a group of ramps above zero
_EPS = 1e-6
_AXES = (0, 1)
Terms = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Pairs:
    """Where pairs (+, −) of channels and the constants that drown them stand: `per_group` pairs in each group."""

    first_group: int
    group_size: int
    count: int

    @property
    def per_group(self) -> int:
        return (self.group_size - 2) // 2

    @property
    def num_groups(self) -> int:
        return -(-self.count // self.per_group)

    def plus(self, number: int) -> int:
        """Return the channel of a pair's positive half; the negative one is `per_group` further."""
        group, place = divmod(number, self.per_group)
        return (self.first_group + group) * self.group_size + place

    def minus(self, number: int) -> int:
        return self.plus(number) + self.per_group

    def constants(self) -> list[tuple[int, int, int]]:
        """Return for each group the two channels of its constants and how many pairs it holds."""
        found = []
        for group in range(self.num_groups):
            start = (self.first_group + group) * self.group_size
            held = min(self.per_group, self.count - group * self.per_group)
            found.append((start + 2 * self.per_group, start + 2 * self.per_group + 1, held))
        return found


class Ramps:
    """Distances to the four borders, counted in groups of their own by the residual blocks of the lowest level."""

    def __init__(self, first_group: int, group_size: int, side: int) -> None:
        self.first_group, self.group_size, self.side = first_group, group_size, side
        from_start = side // 2 + 1
        self.goals = [from_start, side + 1 - from_start] * 2  # rows from the top and bottom, columns from both sides
        self.counts = [1] * 4

    @staticmethod
    def groups_needed(group_size: int) -> int:
        """Return in how many groups the ramps and their copies fit, one channel of each being the constant."""
        return -(-8 // (group_size - 1))

    @staticmethod
    def blocks_needed(side: int) -> int:
        """Return how many residual blocks of two convolutions it takes to count to the middle."""
        return -(-(side // 2) // 2)

    def slot(self, number: int) -> int:
        """Return the channel of the ramp, or of the copy (4 to 7), of that number."""
        group, place = divmod(number, self.group_size - 1)
        return (self.first_group + group) * self.group_size + place

    @property
    def references(self) -> list[int]:
        groups = range(self.first_group, self.first_group + self.groups_needed(self.group_size))
        return [group * self.group_size + self.group_size - 1 for group in groups]

    def start(self, conv_in: Any) -> None:
        """Begin with 1 everywhere, as the bias of the first convolution."""
        conv_in.bias[[self.slot(number) for number in range(4)]] = 1.0
        conv_in.bias[self.references] = REFERENCE

    def advance(self, block: Any) -> None:
        """Let a residual block count up to two pixels further."""
        if self.counts == self.goals:
            return
        self._know(block.norm1, dict(enumerate(self.counts)))
        halfway = [min(count + 1, goal) for count, goal in zip(self.counts, self.goals, strict=True)]
        ends = [min(count + 2, goal) for count, goal in zip(self.counts, self.goals, strict=True)]
        for number, (before, middle, end) in enumerate(zip(self.counts, halfway, ends, strict=True)):
            ramp, copy = self.slot(number), self.slot(number + 4)
            self._count(block.conv1, number, ramp, ramp, middle > before)
            _tap(block.conv1, copy, ramp, 1 / GAIN)
            self._count(block.conv2, number, ramp, ramp, end > middle)
            _tap(block.conv2, ramp, copy, -1 / GAIN)
        block.conv1.bias[self.references] = REFERENCE
        known = dict(enumerate(halfway)) | {number + 4: count for number, count in enumerate(self.counts)}
        self._know(block.norm2, known)
        self.counts = ends

    def coordinate(self, axis: int) -> Terms:
        """Return the channels and weights whose sum is a pixel's coordinate from 1, and 0 beyond the border."""
        assert self.counts == self.goals, f"counted to {self.counts} of {self.goals}"
        reference = self.references[0]
        return [
            (self.slot(2 * axis), 1.0),
            (self.slot(2 * axis + 1), -1.0),
            (reference, self.goals[1] / REFERENCE),
        ]

    def _count(self, conv: Any, number: int, to: int, source: int, onwards: bool) -> None:
        """Add 1 + (the neighbour's count), or the pixel's own count, in units of GAIN."""
        axis, from_end = divmod(number, 2)
        _tap(conv, to, source, 1 / GAIN, axis, (1 if from_end else -1) if onwards else 0)
        conv.bias[to] += 1.0 if onwards else 0.0

    def _know(self, norm: Any, counts: dict[int, int]) -> None:
        """Make a normalisation multiply ramps by GAIN: what it would take away is known, and put back."""
        distance = torch.arange(1, self.side + 1, dtype=torch.float64)
        channels = {self.slot(number): distance.clamp(max=count) for number, count in counts.items()}
        channels |= {channel: torch.full_like(distance, REFERENCE) for channel in self.references}
        for reference in self.references:
            members = range(reference + 1 - self.group_size, reference + 1)
            values = torch.stack([channels.get(channel, torch.zeros_like(distance)) for channel in members])
            mean, std = float(values.mean()), float((values.var(unbiased=False) + _EPS).sqrt())
            used = [channel for channel in members if channel in channels]
            norm.weight[used], norm.bias[used] = GAIN * std, GAIN * mean


def carry_images(block: Any, norm_out: Any, conv_out: Any, pairs: Pairs) -> None:
    """Let a residual block put the low-resolution images into the channels `plus` of the pairs, which hold nothing yet.

    norm_out, conv_out: the last layers of our decoder.
    """
    width = norm_out.num_channels
    block.norm1.weight[:width], block.norm1.bias[:width] = norm_out.weight, norm_out.bias
    for number in range(pairs.count):
        for channel, sign in ((pairs.plus(number), 1), (pairs.minus(number), -1)):
            block.conv1.weight[channel, :width] = sign * conv_out.weight[number]
            block.conv1.bias[channel] = sign * conv_out.bias[number]
            _tap(block.conv2, pairs.plus(number), channel, sign)
    _drown(block.conv1, block.norm2, pairs, 0.0, 0.0)


def double_images(
    conv: Any, images: Sequence[int], coordinates: Sequence[Terms], bits: Sequence[int]
) -> tuple[list[int], list[Terms], list[int]]:
    """Let the convolution after a doubling carry images, coordinates and bits over, and add two bits.

    Returns their channels afterwards, which are the first ones.
    """
    places = iter(range(len(conv.bias)))
    images_after = [next(places) for _ in images]
    bits_after = [next(places) for _ in bits]
    for channel, source in zip([*images_after, *bits_after], [*images, *bits], strict=True):
        _tap(conv, channel, source, 1.0)
    coordinates_after = [next(places) for _ in _AXES]
    double_coordinates(conv, coordinates, coordinates_after)
    for axis in _AXES:
        bits_after.append(next(places))
        _first_of_two(conv, bits_after[-1], coordinates[axis], axis, 1.0)
    return images_after, [[(channel, 1.0)] for channel in coordinates_after], bits_after


def double_coordinates(conv: Any, coordinates: Sequence[Terms], to: Sequence[int]) -> None:
    """Let the convolution after a doubling put the new coordinates into two channels: q(x) + q(x − 1)."""
    for axis in _AXES:
        for channel, weight in coordinates[axis]:
            _tap(conv, to[axis], channel, weight)
            _tap(conv, to[axis], channel, weight, axis, -1)


def gate_images(
    conv: Any,
    norm_out: Any,
    conv_out: Any,
    images: Sequence[int],
    coordinates: Sequence[Terms],
    bits: Sequence[int],
    patch: int,
    pairs: Pairs,
) -> None:
    """Let the last doubling's convolution and the decoder's last layers choose each pixel from the images.

    images: channels of the image's channels × patch rows × patch columns. bits: channels of those found before, rows
    and columns in turn, each 1 on the first of two.
    """
    num_bits = 2 * int(math.log2(patch))
    for number, image in enumerate(images):
        colour, place = divmod(number, patch**2)
        for sign, channel in ((1, pairs.plus(number)), (-1, pairs.minus(number))):
            _tap(conv, channel, image, sign)
            for bit in range(num_bits):
                axis, power = bit % 2, num_bits // 2 - 1 - bit // 2
                second = place // patch ** (1 - axis) % patch >> power & 1
                weight = -BARRIER if second else BARRIER  # of "first of two"
                conv.bias[channel] -= 0.0 if second else BARRIER
                if bit < len(bits):
                    _tap(conv, channel, bits[bit], weight)
                else:
                    _first_of_two(conv, channel, coordinates[axis], axis, weight)
            _tap(conv_out, colour, channel, sign)
    # Bits are wrong at half of the places each, independently: their number has this mean and mean square.
    _drown(conv, norm_out, pairs, BARRIER * num_bits / 2, BARRIER**2 * (num_bits + num_bits**2) / 4)


def _drown(conv: Any, norm: Any, pairs: Pairs, mean: float, square: float) -> None:
    """Add to each group constants by which its mean is 0, its deviation known, and undone by the normalisation.

    mean, square: by how much each half of a pair is lowered beside ±z, on average, and the average square of that.
    """
    for first, second, held in pairs.constants():
        raised = -DROWN + 2 * held * mean
        conv.bias[first], conv.bias[second] = DROWN, raised
        variance = (2 * held * square + DROWN**2 + raised**2) / pairs.group_size
        for number in range(pairs.count):
            if first - 2 * pairs.per_group <= pairs.plus(number) < first:
                norm.weight[[pairs.plus(number), pairs.minus(number)]] = math.sqrt(variance + _EPS)


def _first_of_two(conv: Any, to: int, coordinate: Terms, axis: int, scale: float) -> None:
    """Add `scale` on the first of two repeated pixels: q(x) − q(x − 1)."""
    for channel, weight in coordinate:
        _tap(conv, to, channel, scale * weight)
        _tap(conv, to, channel, -scale * weight, axis, -1)


def _tap(conv: Any, to: int, source: int, weight: float, axis: int = 0, offset: int = 0) -> None:
    """Add a weight from a channel of a 3×3 convolution's input, `offset` pixels along an axis, to one of its output."""
    place = [1, 1]
    place[axis] += offset
    conv.weight[to, source, place[0], place[1]] += weight
