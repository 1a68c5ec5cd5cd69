"""
Preconditions of requests: entity tags and dates (RFC 9110, sections 8.8 and 13).

What is malformed is as good as absent where the RFC says so (dates), and matches
nothing otherwise (entity tags).
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping

_OPAQUE = rb'"[\x21\x23-\x7e\x80-\xff]*+"'
_TAG = re.compile(rb"(W/)?(%b)" % _OPAQUE)
_TAGS = re.compile(
    rb"(?:[\t ]*+,)*+[\t ]*+(?:W/)?%b(?:[\t ]*+,[\t ]*+(?:(?:W/)?%b)?)*+[\t ]*+"
    % (_OPAQUE, _OPAQUE)
)

_MONTHS = b"Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
_MONTH = b"(?P<month>%b)" % b"|".join(_MONTHS)
_TIME = rb"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = rb"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_WEEKDAY = rb"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"

#: The three forms of a date (section 5.6.7); only the first is ever sent.
_DATES = [
    re.compile(b" ".join(parts))
    for parts in (
        (
            _DAY + b",",
            rb"(?P<day>[0-9]{2})",
            _MONTH,
            rb"(?P<year>[0-9]{4})",
            _TIME,
            b"GMT",
        ),
        (
            _WEEKDAY + b",",
            rb"(?P<day>[0-9]{2})-%b-(?P<year>[0-9]{2})" % _MONTH,
            _TIME,
            b"GMT",
        ),
        (_DAY, _MONTH, rb"(?P<day>[0-9 ][0-9])", _TIME, rb"(?P<year>[0-9]{4})"),
    )
]


def failed_precondition(
    fields: Mapping[bytes, bytes], etag: bytes, modified: int | None
) -> int | None:
    """
    Return the status that answers instead of a GET or HEAD, if there is one.

    In the order of section 13.2.2.

    Args:
        fields: The request's, names in lower case.
        etag: Of the selected representation.
        modified: When it was modified, in seconds since the epoch; ``None`` if
            that is not told.

    Returns:
        412, 304 or ``None``.

    """
    if (tags := fields.get(b"if-match")) is not None:
        if not matches(tags, etag, strong=True):
            return 412
    elif modified is not None and (value := fields.get(b"if-unmodified-since")):
        since = read_date(value)
        if since is not None and modified > since:
            return 412
    if (tags := fields.get(b"if-none-match")) is not None:
        if matches(tags, etag, strong=False):
            return 304
    elif modified is not None and (value := fields.get(b"if-modified-since")):
        since = read_date(value)
        if since is not None and modified <= since:
            return 304
    return None


def range_holds(
    fields: Mapping[bytes, bytes], etag: bytes, modified: int | None
) -> bool:
    """
    Tell whether If-Range allows to answer with a part (section 13.1.5).

    While the tag is weak, a date is, too (section 8.8.2.2): both say that the
    representation may still change unnoticed.
    """
    value = fields.get(b"if-range")
    if value is None:
        return True
    if etag.startswith(b"W/"):
        return False
    return value == etag or (modified is not None and read_date(value) == modified)


def matches(tags: bytes, etag: bytes, *, strong: bool) -> bool:
    """
    Tell whether an entity tag is among those of a field, or the field is ``*``.

    Args:
        tags: The field's value.
        etag: A tag, perhaps weak.
        strong: Whether both need to be strong (section 8.8.3.2).

    """
    if tags == b"*":
        return True
    if not _TAGS.fullmatch(tags) or (strong and etag.startswith(b"W/")):
        return False
    opaque = etag.removeprefix(b"W/")
    return any(
        each == opaque and not (strong and weak) for weak, each in _TAG.findall(tags)
    )


def read_date(value: bytes) -> int | None:
    """
    Return the seconds since the epoch of an HTTP date (section 5.6.7).

    Returns:
        The seconds; ``None`` if it is none, or none of the calendar.

    """
    if len(value) > 40:
        return None
    for form in _DATES:
        match = form.fullmatch(value)
        if match is not None:
            return _seconds(match)
    return None


def _seconds(match: re.Match[bytes]) -> int | None:
    year = int(match["year"])
    if len(match["year"]) == 2:
        this_year = datetime.datetime.now(datetime.UTC).year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
    second = int(match["second"])
    try:
        when = datetime.datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            59 if second == 60 else second,
            tzinfo=datetime.UTC,
        )
    except ValueError:
        return None
    return int(when.timestamp())
