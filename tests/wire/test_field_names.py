"""Names that mean more than themselves: RFC 9110, sections 5.1 and 6.5.1."""

import pytest

from greenchannels.errors import RemoteProtocolError
from greenchannels.wire.field_names import (
    FRAMING,
    MEANINGFUL,
    MEANINGFUL_PREFIXES,
    check_underscores,
    is_meaningful,
)


@pytest.mark.parametrize(
    "name", [*MEANINGFUL, *(p + b"x" for p in MEANINGFUL_PREFIXES)]
)
def test_a_name_that_others_act_upon_is_known_in_both_spellings(name):
    """With ``-`` and with ``_``, and refused only where it has ``_``."""
    other = name.replace(b"-", b"_")
    assert is_meaningful(name)
    assert is_meaningful(other)
    check_underscores([name, b"a_b"])
    if other != name:
        with pytest.raises(RemoteProtocolError, match="shadows"):
            check_underscores([b"a", other])


def test_framing_is_what_others_act_upon_most():
    """Each of those names is in the larger set."""
    assert all(map(is_meaningful, FRAMING))


@pytest.mark.parametrize("names", [[], [b"a"], [b"a_b", b"a_b"], [b"a_b", b"ab", b"_"]])
def test_names_of_ones_own_pass(names):
    """Repeated or not."""
    check_underscores(names)
    assert not any(map(is_meaningful, names))


@pytest.mark.parametrize("names", [[b"a-b", b"a_b"], [b"a_b", b"c", b"a-b"]])
def test_names_that_become_one_are_refused(names):
    """In either order."""
    with pytest.raises(RemoteProtocolError, match="shadows"):
        check_underscores(names)
