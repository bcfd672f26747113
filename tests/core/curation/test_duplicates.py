"""Groups are what hangs together; what is left out is near something kept, and nothing that is kept is near another."""

import numpy as np
import pytest

from ldm.core.curation import fingerprints, near
from ldm.core.curation.duplicates import components, grouped
from ldm.core.curation.fingerprints import FINGERPRINT, fingerprint_of, keeping_order, representatives, scratch
from ldm.core.curation.near import LINK, SEARCHED, merged, near_links
from ldm.core.errors import DataError
from ldm.core.images.dataset import image_source
from tests.support.pictured import landscape


def links(*pairs: tuple[int, int], kind: str = "hash", distances: list[float] | None = None) -> np.ndarray:
    rows = [(*pair, SEARCHED.index(kind), 2.0, 0.96) for pair in pairs]  # type: ignore[arg-type]
    found = np.array(rows, dtype=LINK)
    if distances:
        found["distance"] = distances
    return found


def known(count: int, contents: dict[int, bytes] | None = None, pixels: dict[int, bytes] | None = None) -> np.ndarray:
    """Fingerprints of `count` different images, some of which are given the bytes or pixels of others."""
    found = np.zeros(count, dtype=FINGERPRINT)
    for row in range(count):
        own = row.to_bytes(32, "big")
        found["content"][row], found["pixels"][row] = (contents or {}).get(row, own), (pixels or {}).get(row, own)
    found["known"] = True
    return found


def groups_of(count: int, found: np.ndarray, order: list[int] | None = None, **same):
    all_fingerprints = known(count, **same)
    places = np.empty(count, dtype=np.int64)
    places[order or np.arange(count)] = np.arange(count)
    return grouped(all_fingerprints, representatives(all_fingerprints, places), found, places)


def kept_and_out(group) -> tuple[list[int], dict[int, int]]:
    return [c.row for c in group.copies if c.kind == "kept"], {c.row: c.of for c in group.copies if c.kind != "kept"}


def test_components_are_those_of_a_walk():
    noise = np.random.default_rng(0)
    for count, pairs in ((1, 0), (50, 30), (300, 200), (300, 299)):
        first, second = noise.integers(0, count, (2, pairs)) if pairs < 299 else (np.arange(299), np.arange(1, 300))
        neighbours = {row: set() for row in range(count)}
        for i, j in zip(first.tolist(), second.tolist(), strict=True):
            neighbours[i].add(j)
            neighbours[j].add(i)
        expected = [-1] * count
        for row in range(count):
            waiting = [row] if expected[row] < 0 else []
            while waiting:
                at = waiting.pop()
                if expected[at] < 0:
                    expected[at] = row
                    waiting.extend(neighbours[at])
        assert components(count, first, second).tolist() == expected


def test_of_two_copies_the_one_that_is_rather_kept_stays():
    for order, kept in (([0, 1, 2], 0), ([2, 1, 0], 1)):
        (group,) = groups_of(3, links((0, 1)), order)
        assert kept_and_out(group) == ([kept], {1 - kept: kept}) and not group.chain
        assert group.copies[0].row == kept and group.copies[1].kind == "hash" and group.copies[1].distance == 2


def test_the_ends_of_a_chain_are_both_kept_unless_the_middle_stands_for_them():
    (group,) = groups_of(3, links((0, 1), (1, 2)))
    assert group.chain and kept_and_out(group) == ([0, 2], {1: 0})
    (group,) = groups_of(3, links((0, 1), (1, 2)), order=[1, 0, 2])
    assert group.chain and kept_and_out(group) == ([1], {0: 1, 2: 1})
    (group,) = groups_of(3, links((0, 1), (1, 2), (0, 2)))
    assert not group.chain and kept_and_out(group) == ([0], {1: 0, 2: 0})


def test_of_several_that_are_kept_the_nearest_is_named():
    (group,) = groups_of(3, links((0, 1), (1, 2), distances=[5, 1]))
    assert kept_and_out(group) == ([0, 2], {1: 2})
    mixed = merged([links((0, 1), kind="features", distances=[0.01]), links((1, 2), distances=[9])])
    (group,) = groups_of(3, mixed)
    assert kept_and_out(group) == ([0, 2], {1: 2}), "a hash is surer than features"


def test_in_any_graph_what_is_out_is_linked_to_what_is_kept_and_what_is_kept_is_not_linked():
    noise = np.random.default_rng(1)
    pairs = {(min(i, j), max(i, j)) for i, j in noise.integers(0, 80, (120, 2)).tolist() if i != j}
    found = groups_of(80, links(*sorted(pairs)), noise.permutation(80).tolist())
    everything = [row for group in found for row in group.rows]
    assert len(everything) == len(set(everything)) == len({row for pair in pairs for row in pair})
    kept = {row for group in found for row in kept_and_out(group)[0]}
    out = {row: of for group in found for row, of in kept_and_out(group)[1].items()}
    assert all(tuple(sorted(pair)) in pairs and pair[1] in kept for pair in out.items())
    assert not any(i in kept and j in kept for i, j in pairs)
    assert [len(group.copies) for group in found] == sorted((len(group.copies) for group in found), reverse=True)


def test_equal_bytes_equal_pixels_and_copies_of_those_are_reported_apart():
    twin, same = b"t" * 32, b"p" * 32
    found = groups_of(
        6, links((0, 5)), contents={0: twin, 2: twin}, pixels={0: same, 2: same, 3: same}, order=[0, 1, 2, 3, 4, 5]
    )
    (group,) = found
    assert {c.row: (c.kind, c.of) for c in group.copies} == {
        0: ("kept", None),
        2: ("bytes", 0),
        3: ("pixels", 0),
        5: ("hash", 0),
    }
    (group,) = groups_of(
        6, links((0, 5)), contents={0: twin, 2: twin}, pixels={0: same, 2: same}, order=[5, 0, 1, 2, 3, 4]
    )
    assert kept_and_out(group) == ([5], {0: 5, 2: 5}), "the twin of what is left out is left out as that is"


def test_images_that_could_not_be_decoded_are_in_no_group():
    all_fingerprints = known(4, pixels={1: b"p" * 32, 3: b"p" * 32})
    all_fingerprints[[0, 2]] = np.zeros(2, dtype=FINGERPRINT)
    places = np.arange(4)
    (group,) = grouped(all_fingerprints, representatives(all_fingerprints, places), links(), places)
    assert group.rows == [1, 3]


def test_what_is_held_out_is_rather_kept_then_the_larger_then_the_heavier_then_the_first():
    all_fingerprints = known(5)
    all_fingerprints["area"], all_fingerprints["weight"] = [10, 20, 20, 1, 20], [5, 5, 9, 1, 9]
    places = keeping_order(all_fingerprints, np.array([False, False, False, True, False]))
    assert np.argsort(places).tolist() == [3, 2, 4, 1, 0]


def seen(*pictures: np.ndarray) -> np.ndarray:
    source = image_source("here", [f"{row:06d}" for row in range(len(pictures))], pictures.__getitem__, None)
    found = scratch((len(pictures),), FINGERPRINT)
    for row, picture in enumerate(pictures):
        found[row] = fingerprint_of(source, row, picture)
    return found


@pytest.mark.parametrize("mirrored", [False, True])
def test_mirrored_copies_are_found_when_asked_for_and_a_symmetric_picture_is_no_copy_of_itself(mirrored):
    a, b, c = (landscape(number) for number in range(3))
    symmetric = np.concatenate([c[:, :48], c[:, :48][:, ::-1]], axis=1)
    found = near_links(seen(a, b, a[:, ::-1], symmetric), np.arange(4), 10, 0.95, mirrored)
    assert list(zip(found["first"].tolist(), found["second"].tolist(), strict=True)) == ([(0, 2)] if mirrored else [])
    assert [SEARCHED[kind] for kind in found["kind"]] == (["mirrored"] if mirrored else [])


def test_both_a_like_hash_and_a_like_thumbnail_are_asked_for():
    a = landscape(1)
    all_fingerprints = seen(a, a)
    assert len(near_links(all_fingerprints, np.arange(2), 0, 0.99, False)) == 1
    all_fingerprints["thumbnail"][1] = 255 - all_fingerprints["thumbnail"][1]
    assert len(near_links(all_fingerprints, np.arange(2), 0, 0.5, False)) == 0


def test_links_are_counted_by_the_images_own_rows_when_some_are_passed_over():
    a, b = landscape(1), landscape(2)
    found = near_links(seen(b, a, b, a), np.array([1, 3]), 4, 0.99, False)
    assert (found["first"].tolist(), found["second"].tolist()) == ([1], [3])


def test_more_links_than_can_be_of_use_are_refused_with_what_to_change(monkeypatch):
    monkeypatch.setattr(near, "MAX_LINKS", 5)
    with pytest.raises(DataError, match="more than 5 pairs") as refused:
        near_links(seen(*[landscape(1)] * 4), np.arange(4), 4, 0.9, False)
    assert "`likeness`" in str(refused.value.remedy)


def test_large_arrays_lie_in_a_file_and_hold_the_same(monkeypatch):
    a, b = landscape(1), landscape(2)
    in_memory = near_links(seen(a, b, a), np.arange(3), 4, 0.9, False)
    monkeypatch.setattr(fingerprints, "_IN_MEMORY", 0)
    on_disk = seen(a, b, a)
    assert isinstance(on_disk, np.memmap)
    assert near_links(on_disk, np.arange(3), 4, 0.9, False)["second"].tolist() == in_memory["second"].tolist() == [2]
