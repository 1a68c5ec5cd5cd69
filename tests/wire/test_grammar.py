"""What HTTP's modules share: RFC 9110, section 5."""

import re

import pytest

from greenchannels.errors import LocalProtocolError
from greenchannels.wire.grammar import FIELD_LINE, TOKEN, check_headers, read_list


@pytest.mark.parametrize("byte", range(256))
def test_a_token_has_the_characters_of_the_rfc(byte):
    """Section 5.6.2, in the pattern and in the check."""
    character = bytes((byte,))
    good = character.isalnum() or character in b"!#$%&'*+-.^_`|~"
    assert bool(TOKEN.fullmatch(character)) is good
    if good:
        check_headers([(character, b"")])
    else:
        with pytest.raises(LocalProtocolError, match="name is not a token"):
            check_headers([(b"a", b""), (b"a" + character, b"")])


@pytest.mark.parametrize("byte", range(256))
def test_a_value_has_no_control_characters_but_tabs(byte):
    """Section 5.5, when it is read and when it is sent."""
    value = b"a" + bytes((byte,)) + b"b"
    good = byte == 9 or (byte >= 32 and byte != 127)
    assert bool(re.fullmatch(FIELD_LINE, b"n:" + value + b"\r\n")) is good
    if good:
        check_headers([(b"n", value)])
    else:
        with pytest.raises(LocalProtocolError, match="value has control characters"):
            check_headers([(b"n", value), (b"n", b"")])


def test_a_header_has_a_name():
    """An empty one is none."""
    with pytest.raises(LocalProtocolError, match="name is not a token"):
        check_headers([(b"", b"a")])
    check_headers([])


@pytest.mark.parametrize(
    ("values", "elements"),
    [
        ([], []),
        ([b""], []),
        ([b" , ,\t"], []),
        ([b"a"], [b"a"]),
        ([b"a,b , c"], [b"a", b"b", b"c"]),
        ([b"a", b"b,", b"", b"c d"], [b"a", b"b", b"c d"]),
    ],
)
def test_a_list_is_split_at_its_commas(values, elements):
    """Over all lines of the field, without empty elements."""
    assert read_list(values) == elements
