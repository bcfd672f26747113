"""The little language of `--class`: names, indices, lists, ranges, all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ldm.core.conditioning.class_names import parse_classes
from ldm.core.errors import ConfigError

FISH = ["tench", "goldfish", "great white shark", "cat, domestic", "T-34", "ray"]
DIGITS = [str(digit) for digit in range(10)]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("1", [1]),
        ("goldfish", [1]),
        ("GoldFish", [1]),
        ("great white shark", [2]),
        ("great_white_shark", [2]),
        ("CAT,_domestic", [3]),
        ("ray,tench", [5, 0]),
        (" ray , 0 ", [5, 0]),
        ("1-3", [1, 2, 3]),
        ("1 - 3", [1, 2, 3]),
        ("4,0-2,1,tench,4", [4, 0, 1, 2]),
        ("all", [0, 1, 2, 3, 4, 5]),
        (" ALL ", [0, 1, 2, 3, 4, 5]),
        ("cat, domestic", [3]),
        ("T-34", [4]),
        ("t-34,0", [4, 0]),
        ("0-0", [0]),
        ("03", [3]),
    ],
)
def test_classes_are_read_in_the_order_given_and_each_once(text: str, chosen: list[int]) -> None:
    assert parse_classes(text, FISH) == chosen


def test_an_accent_is_the_same_however_the_system_wrote_it() -> None:
    apart, whole = "e\u0301glise", "\u00e9glise"
    assert parse_classes(whole, ["tench", apart]) == parse_classes(apart.upper(), ["tench", whole]) == [1]


def test_a_name_wins_over_an_index_and_over_every_other_reading() -> None:
    assert parse_classes("1", ["0", "2", "1"]) == [2]
    assert parse_classes("0-2", ["a", "b", "c", "0-2"]) == [3]
    assert parse_classes("a,b", ["a", "b", "a,b"]) == [2]
    assert parse_classes("all", ["some", "all"]) == [1]
    assert parse_classes("7,3-5", DIGITS) == [7, 3, 4, 5]
    assert parse_classes("2-4", ["1", "2", "3", "4"]) == parse_classes("2,3,4", ["1", "2", "3", "4"]) == [1, 2, 3]
    assert parse_classes("1-3", ["a", "1", "c", "d"]) == [1, 2, 3]
    with pytest.raises(ConfigError, match="`classes=1-4` are not all classes"):
        parse_classes("1-4", ["1", "2", "4", "8"])


def test_where_classes_are_named_by_numbers_a_number_is_never_an_index() -> None:
    with pytest.raises(ConfigError, match="`classes=0` is not a class") as refused:
        parse_classes("0", ["1", "2", "3"])
    assert refused.value.remedy == "name one of the classes: 1, 2, 3"
    with pytest.raises(ConfigError):
        parse_classes("0-2", ["1", "2", "3"])
    assert parse_classes("1", ["01", "02"]) == [0]


def test_names_that_differ_in_case_only_are_reported_apart() -> None:
    assert parse_classes("Ray", ["ray", "Ray"]) == [1]
    assert parse_classes("a_b,a b", ["a b", "a_b"]) == [1, 0]
    with pytest.raises(ConfigError):
        parse_classes("RAY", ["ray", "Ray"])


@pytest.mark.parametrize(
    ("text", "message", "remedy"),
    [
        ("goldfisch", "`classes=goldfisch` is an unknown class", "did you mean 'goldfish'?"),
        ("zebra", "`classes=zebra` is an unknown class", "0 tench, 1 goldfish"),
        ("6", "`classes=6` is outside 0 … 5", "0 tench, 1 goldfish"),
        ("2-6", "`classes=2-6` is outside 0 … 5", "5 ray"),
        ("3-1", "`classes=3-1` runs backwards", "write 1-3"),
        ("-1", "`classes=-1` is an unknown class", ""),
        ("", "`classes=` is an unknown class", "0 tench"),
        ("tench,", "`classes=` is an unknown class", "0 tench"),
        ("1.5", "`classes=1.5` is an unknown class", ""),
        ("9" * 5000, "is an unknown class", "0 tench"),
        ("1-" + "9" * 5000, "is an unknown class", "0 tench"),
    ],
)
def test_what_is_no_class_is_refused_with_the_nearest_name_or_the_list(text: str, message: str, remedy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_classes(text, FISH)
    assert message in caught.value.message and caught.value.remedy is not None and remedy in caught.value.remedy
    assert caught.value.exit_code == 2


def test_a_long_list_of_classes_is_shown_shortened() -> None:
    with pytest.raises(ConfigError, match="11 c11, … 999 c999") as caught:
        parse_classes("1000", [f"c{index}" for index in range(1000)])
    assert len(str(caught.value)) < 250


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        chosen = parse_classes(text, FISH)
    except ConfigError:
        return
    assert chosen and set(chosen) <= set(range(6)) and len(set(chosen)) == len(chosen)
