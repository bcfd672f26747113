"""The searches find exactly the pairs that comparing all with all finds."""

import numpy as np
import pytest

from ldm.core.curation import near

RNG = np.random.default_rng(3)


def crowded(seed: int, count: int) -> np.ndarray:
    """Hashes around a few centres, up to ten bits away from them, some equal: pairs at every distance."""
    noise = np.random.default_rng(seed)
    centres = np.random.default_rng(0).integers(0, 2**64, 9, dtype=np.uint64)
    hashes = centres[noise.integers(0, 9, count)]
    for row, flips in enumerate(noise.integers(0, 11, count)):
        for bit in noise.permutation(64)[:flips]:
            hashes[row] ^= np.uint64(1) << np.uint64(bit)
    return hashes


def by_all(first: np.ndarray, second: np.ndarray, radius: int) -> set[tuple[int, int, int]]:
    return {
        (i, j, (int(a) ^ int(b)).bit_count())
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if i < j and (int(a) ^ int(b)).bit_count() <= radius
    }


def by_search(first: np.ndarray, second: np.ndarray, radius: int) -> list[tuple[int, int, int]]:
    found = near.hamming_pairs(first, second, radius)
    return [(int(i), int(j), int(d)) for pairs in found for i, j, d in zip(*pairs, strict=True)]


@pytest.mark.parametrize("block", [1, 1000, 1 << 19])
@pytest.mark.parametrize("radius", [0, 3, 10, 15])
def test_pairs_of_hashes_are_those_of_comparing_all_each_once(monkeypatch, radius, block):
    monkeypatch.setattr(near, "_HASHES", block)
    first, second = crowded(1, 150), crowded(2, 150)
    second[30:60] = first[:30]
    for others in (first, second):
        found = by_search(first, others, radius)
        assert len(found) == len(set(found)) and set(found) == by_all(first, others, radius)
        assert {distance for *_, distance in found} >= {0, radius}


@pytest.mark.parametrize("count", [0, 1])
def test_none_and_one_have_no_pairs(count):
    hashes = RNG.integers(0, 2**64, count, dtype=np.uint64)
    assert by_search(hashes, hashes, 8) == []
    assert [len(i) for i, _, _ in near.cosine_pairs(np.ones((count, 4)), 0.5)] == [0] * count


def test_bits_are_counted_alike_with_and_without_numpys_own_counting(monkeypatch):
    values = RNG.integers(0, 2**64, (100, 10), dtype=np.uint64)
    values[0, :4] = [0, 2**64 - 1, 1, 2**63]
    expected = [[int(value).bit_count() for value in row] for row in values]
    assert near.popcount(values).tolist() == expected
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert near.popcount(values).tolist() == expected


@pytest.mark.parametrize("kind", [np.float32, np.float16])
def test_pairs_of_vectors_are_those_of_comparing_all_each_once(monkeypatch, kind):
    monkeypatch.setattr(near, "_VECTORS", 7)
    vectors = (RNG.normal(size=(40, 16)) * RNG.uniform(0.1, 10, (40, 1))).astype(kind)
    vectors[20:30] = vectors[:10] * 3 + RNG.normal(0, 0.01, (10, 16))
    rows = vectors.astype(np.float64)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    distances = 1 - rows @ rows.T
    expected = {(i, j) for i in range(40) for j in range(i + 1, 40) if distances[i, j] <= 0.3}
    found = [
        (int(i), int(j), float(d)) for pairs in near.cosine_pairs(vectors, 0.3) for i, j, d in zip(*pairs, strict=True)
    ]
    assert len(found) == len(expected) >= 10 and {(i, j) for i, j, _ in found} == expected
    assert all(abs(distance - distances[i, j]) < 1e-4 for i, j, distance in found)
