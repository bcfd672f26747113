"""At the border of a parser everything becomes an error that the user can mend."""

import pytest

from ldm.core.errors import DataError, as_data_error


@pytest.mark.parametrize("raised", [ValueError("at 7"), AssertionError(), RecursionError("deep"), SyntaxError("?")])
def test_whatever_a_parser_raises_names_the_file_and_keeps_its_cause(raised: Exception) -> None:
    with pytest.raises(DataError) as caught, as_data_error("a.zip cannot be read", "copy it again"):
        raise raised
    assert caught.value.message == f"a.zip cannot be read: {str(raised) or type(raised).__name__}"
    assert caught.value.remedy == "copy it again" and caught.value.__cause__ is raised


def test_an_error_that_names_more_passes_a_parsers_border_as_it_is() -> None:
    with pytest.raises(DataError, match="two files named a"), as_data_error("a.zip cannot be read"):
        raise DataError("a.zip holds two files named a")


def test_an_interrupt_passes_a_parsers_border() -> None:
    with pytest.raises(KeyboardInterrupt), as_data_error("a.zip cannot be read"):
        raise KeyboardInterrupt


def test_running_out_of_memory_is_not_taken_for_damage() -> None:
    with pytest.raises(MemoryError), as_data_error("a.zip cannot be read"):
        raise MemoryError
