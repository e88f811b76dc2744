"""Messages of errors: names from files are escaped, and long messages are cut."""

import pickle

import pytest

from cnn_jax import errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größe お", "größe お"),
        ("a\x1b[2J\x07\x7f\x9b", r"a\x1b[2J\x07\x7f\x9b"),
        ("right\u202eleft\u2028", r"right\u202eleft\u2028"),
        (b"\xff.png".decode("utf-8", "surrogateescape"), r"\udcff.png"),
        ("two\nlines", "two\nlines"),
    ],
)
def test_a_message_shows_control_characters_as_escape_sequences(text: str, expected: str) -> None:
    assert str(errors.UserError(text)) == expected
    assert str(pickle.loads(pickle.dumps(errors.UnreadableImageError(text)))) == expected


def test_the_middle_of_a_long_message_is_left_out() -> None:
    error = errors.unknown("class", "x" * 100, map(str, range(200_000)))
    text = str(error)
    assert text.startswith("unknown class 'xxx")
    assert text.endswith("99998, 99999")
    assert f"{len(error.args[0]) - 4_000:,} characters left out" in text
    assert len(text) < 4_100


def test_names_are_listed_up_to_a_number() -> None:
    assert errors.listed(["a\n", "b"], most=2) == r"a\n, b"
    assert errors.listed(["a", "b", "c"], most=1) == "a and 2 more"
