"""
What the coverage-guided fuzzer runs: for each parser of wire/ a function of bytes.

A target returns if all that is promised holds, and raises ``AssertionError``, or
whatever the parser should not have raised, if not. It depends on nothing but its
bytes. They need no fuzzer: ``test_corpus.py`` gives them all that was found once.
"""

from tests.fuzz.targets.deflating import deflate, extensions
from tests.fuzz.targets.event_streams import sse
from tests.fuzz.targets.http import chunked, grammar, heads, requests, responses
from tests.fuzz.targets.openings import handshake
from tests.fuzz.targets.proxies import forwarded, proxy_protocol
from tests.fuzz.targets.timing import time
from tests.fuzz.targets.websockets import encoders, frames, session

TARGETS = {
    target.__name__: target
    for target in (
        *(frames, session, encoders, handshake, deflate, extensions),
        *(requests, heads, chunked, grammar, responses),
        *(proxy_protocol, forwarded, sse, time),
    )
}
