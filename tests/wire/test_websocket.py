"""The life of a WebSocket connection: RFC 6455, sections 5.5 and 7."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenchannels.errors import LocalProtocolError, RemoteProtocolError
from greenchannels.wire.frames import (
    CLOSE,
    PING,
    PONG,
    TEXT,
    encode_control,
    encode_masked,
)
from greenchannels.wire.websocket import (
    NEXT_STATE,
    CloseReceived,
    Failed,
    Pong,
    State,
    Step,
    WebSocketProtocol,
    may_be_sent,
)

MAX = 1 << 40


def client(opcode, payload=b""):
    return encode_masked(opcode, payload, b"\x01\x02\x03\x04")


def close_payload(code, reason=b""):
    return code.to_bytes(2, "big") + reason


def closing(code, reason=b""):
    return encode_control(CLOSE, close_payload(code, reason))


def receive(protocol, wire, size=1 << 20):
    """Feed bytes in pieces; return messages, events and what is to be sent."""
    messages, events, output = [], [], b""
    for i in range(0, len(wire), size):
        part = wire[i : i + size]
        messages += protocol.decode(part, len(part), MAX, MAX)
        if protocol.controls is not None or protocol.error is not None:
            events += protocol.control_events()
            output += protocol.data_to_send()
    return messages, events, output


class Error:
    """Equals a Failed event, or an error, by what it says."""

    def __init__(self, reason, hint):
        self.says = (reason, hint)

    def __eq__(self, other):
        error = getattr(other, "error", other)
        return (error.reason, error.hint) == self.says

    def __repr__(self):
        return f"Error{self.says}"


HALF_A_CODE = Error("close frame has half a code", 1002)
FORBIDDEN_CODE = Error("close frame has a forbidden code", 1002)
BAD_REASON = Error("close reason is not valid UTF-8", 1007)
RESERVED_BITS = Error("reserved bits are set", 1002)

#: Name: wire, events, output, state, close_sent, close_received.
CASES = {
    "ping": (client(PING, b"a"), [], b"\x8a\x01a", State.OPEN, None, None),
    "every ping is answered": (
        client(PING, b"a") + client(PING),
        [],
        b"\x8a\x01a\x8a\x00",
        State.OPEN,
        None,
        None,
    ),
    "pong": (client(PONG, b"a"), [Pong(b"a")], b"", State.OPEN, None, None),
    "close": (
        client(CLOSE, close_payload(1000, "tschüß".encode())),
        [CloseReceived(1000, "tschüß")],
        closing(1000),
        State.CLOSED,
        (1000, ""),
        (1000, "tschüß"),
    ),
    "close without code": (
        client(CLOSE),
        [CloseReceived(1005, "")],
        b"\x88\x00",
        State.CLOSED,
        (1005, ""),
        (1005, ""),
    ),
    "close with a code of one's own": (
        client(CLOSE, close_payload(4999)),
        [CloseReceived(4999, "")],
        closing(4999),
        State.CLOSED,
        (4999, ""),
        (4999, ""),
    ),
    "ping before close": (
        client(PING, b"a") + client(CLOSE) + client(PING, b"b"),
        [CloseReceived(1005, "")],
        b"\x8a\x01a\x88\x00",
        State.CLOSED,
        (1005, ""),
        (1005, ""),
    ),
    "half a code": (
        client(CLOSE, b"\x03"),
        [HALF_A_CODE],
        closing(1002, b"close frame has half a code"),
        State.FAILED,
        (1002, "close frame has half a code"),
        None,
    ),
    "reason not UTF-8": (
        client(CLOSE, close_payload(1000, b"\xff")),
        [BAD_REASON],
        closing(1007, b"close reason is not valid UTF-8"),
        State.FAILED,
        (1007, "close reason is not valid UTF-8"),
        None,
    ),
    "broken frame": (
        client(PONG) + b"\xff\xff",
        [Pong(b""), RESERVED_BITS],
        closing(1002, b"reserved bits are set"),
        State.FAILED,
        (1002, "reserved bits are set"),
        None,
    ),
}

MAY_BE_SENT = (1000, 1001, 1002, 1003, 1007, 1008, 1011, 1012, 1014, 3000, 4999)
FORBIDDEN = (0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535)


@pytest.mark.parametrize("size", [1, 3, 4096])
@pytest.mark.parametrize("case", CASES)
def test_control_frames_become_events_and_answers(case, size):
    """The table, in pieces."""
    wire, *expected = CASES[case]
    protocol = WebSocketProtocol(None)
    _, events, output = receive(protocol, wire, size)
    seen = [
        events,
        output,
        protocol.state,
        protocol.close_sent,
        protocol.close_received,
    ]
    assert seen == expected


@pytest.mark.parametrize("case", CASES)
def test_messages_pass_until_the_end(case):
    """Before the frames of the table always, behind them while it is open."""
    wire, *_, state, _, _ = CASES[case]
    protocol = WebSocketProtocol(None)
    messages, *_ = receive(protocol, client(TEXT, b"1") + wire + client(TEXT, b"2"))
    assert messages == (["1", "2"] if state is State.OPEN else ["1"])


@pytest.mark.parametrize("code", MAY_BE_SENT)
def test_codes_that_may_be_sent(code):
    """Section 7.4 and IANA's registry, in both directions."""
    assert may_be_sent(code)
    assert WebSocketProtocol(None).close(code) == closing(code)
    _, events, output = receive(
        WebSocketProtocol(None), client(CLOSE, close_payload(code))
    )
    assert (events, output) == ([CloseReceived(code, "")], closing(code))


@pytest.mark.parametrize("code", FORBIDDEN)
def test_codes_that_may_not_be_sent(code):
    """Ours is refused, theirs breaks the rules."""
    protocol = WebSocketProtocol(None)
    with pytest.raises(LocalProtocolError, match=f"{code} may not be sent") as caught:
        protocol.close(code)
    assert caught.value.hint == 1011
    assert protocol.state is State.OPEN
    _, events, _ = receive(protocol, client(CLOSE, close_payload(code, b"x")))
    assert events == [FORBIDDEN_CODE]


def test_a_close_of_ours_awaits_theirs():
    """OPEN, CLOSING, CLOSED; no second frame, and pings stay unanswered."""
    protocol = WebSocketProtocol(None)
    assert protocol.close(1001, "bye") == closing(1001, b"bye")
    assert protocol.state is State.CLOSING
    assert protocol.close_sent == (1001, "bye")
    wire = client(TEXT, b"late") + client(PING, b"p") + client(CLOSE, b"\x0b\xb8why")
    messages, events, output = receive(protocol, wire)
    assert messages == ["late"]
    assert events == [CloseReceived(3000, "why")]
    assert output == b""
    assert protocol.state is State.CLOSED
    assert protocol.close_sent == (1001, "bye")
    assert protocol.close_received == (3000, "why")


@pytest.mark.parametrize("wire", [b"\xff\xff", client(CLOSE, b"\x00")])
def test_a_rule_broken_after_our_close_gets_no_second_one(wire):
    """CLOSING, FAILED."""
    protocol = WebSocketProtocol(None)
    protocol.close()
    _, events, output = receive(protocol, wire)
    assert [type(event) for event in events] == [Failed]
    assert output == b""
    assert protocol.state is State.FAILED
    assert protocol.close_sent == (1000, "")


def test_a_broken_rule_is_told_once():
    """The decoder's error stays, the event does not come again."""
    protocol = WebSocketProtocol(None)
    _, events, _ = receive(protocol, b"\xff\xff")
    assert isinstance(events[0].error, RemoteProtocolError)
    assert protocol.control_events() == []
    assert protocol.data_to_send() == b""


def test_output_is_kept_until_it_is_taken():
    """Over several calls, then forgotten."""
    protocol = WebSocketProtocol(None)
    for _ in range(2):
        wire = client(PING, b"a")
        protocol.decode(wire, len(wire), MAX, MAX)
        protocol.control_events()
    assert protocol.data_to_send() == b"\x8a\x01a" * 2
    assert protocol.data_to_send() == b""
    assert protocol.controls is None


def test_pongs_that_come_together_are_one_event():
    """The last; pings among them are answered in their order, the close comes last."""
    protocol = WebSocketProtocol(None)
    wire = client(PONG, b"1") + client(PING, b"a") + client(PONG, b"2")
    wire += client(PING, b"b") + client(CLOSE)
    _, events, output = receive(protocol, wire)
    assert events == [Pong(b"2"), CloseReceived(1005, "")]
    assert output == b"\x8a\x01a\x8a\x01b\x88\x00"


def test_a_flood_of_pings_costs_a_pong_each_and_no_more():
    """Every one is answered, whatever it carries; no objects are made for them."""
    protocol = WebSocketProtocol(None)
    payloads = [b"p" * (n % 126) for n in range(5000)]
    wire = b"".join(client(PING, payload) for payload in payloads)
    protocol.decode(wire, len(wire), MAX, MAX)
    assert protocol.control_events() == []
    expected = b"".join(encode_control(PONG, payload) for payload in payloads)
    assert protocol.data_to_send() == expected


def test_no_frame_of_ours_follows_our_close():
    """Neither a close nor a ping, in any state but OPEN."""
    for wire in (None, client(CLOSE), b"\xff\xff"):
        protocol = WebSocketProtocol(None)
        protocol.close() if wire is None else receive(protocol, wire)
        sent = protocol.close_sent
        assert protocol.close(1011, "again") == b""
        assert protocol.ping() == b""
        assert protocol.close_sent == sent


def test_a_close_reason_has_123_bytes_at_most():
    """Of UTF-8, not characters."""
    protocol = WebSocketProtocol(None)
    for reason in ("x" * 124, "é" * 62):
        with pytest.raises(LocalProtocolError, match="at most 123 bytes") as caught:
            protocol.close(1000, reason)
        assert caught.value.hint == 1011
    assert protocol.close(1000, "é" * 61 + "x")[1] == 125


def test_a_ping_is_a_frame():
    """With a payload of at most 125 bytes."""
    protocol = WebSocketProtocol(None)
    assert protocol.ping() == b"\x89\x00"
    assert protocol.ping(b"p" * 125) == b"\x89\x7d" + b"p" * 125
    with pytest.raises(LocalProtocolError):
        protocol.ping(b"p" * 126)


def test_max_message_is_the_decoders():
    """1009 and its frame."""
    protocol = WebSocketProtocol(3)
    _, events, output = receive(protocol, client(TEXT, b"abcd"))
    assert events == [Error("message is too big", 1009)]
    assert output == closing(1009, b"message is too big")


def test_an_idle_protocol_has_no_dict():
    """Ten thousand of them."""
    assert not hasattr(WebSocketProtocol(None), "__dict__")


def test_every_state_is_in_the_table():
    """And from those at the end nothing leads on."""
    assert set(NEXT_STATE) == set(State)
    assert all(set(moves) <= set(Step) for moves in NEXT_STATE.values())
    assert NEXT_STATE[State.CLOSED] == NEXT_STATE[State.FAILED] == {}


@given(
    st.lists(
        st.one_of(
            st.sampled_from(["close", "ping"]),
            st.binary(max_size=8),
            st.builds(
                client,
                st.sampled_from([PING, PONG, CLOSE, TEXT]),
                st.binary(max_size=9),
            ),
        ),
        max_size=8,
    ),
    st.integers(1, 20),
)
@settings(deadline=None)
def test_whatever_comes_one_close_frame_is_sent_and_it_is_the_last(steps, size):
    """Nothing raises, and nothing follows the close frame."""
    protocol = WebSocketProtocol(100)
    output = b""
    for step in steps:
        if step == "close":
            output += protocol.close()
        elif step == "ping":
            output += protocol.ping()
        else:
            output += receive(protocol, step, size)[2]
    opcodes = []
    while output:
        opcodes.append(output[0] & 0x0F)
        output = output[2 + output[1] :]
    assert opcodes.count(CLOSE) == (protocol.state is not State.OPEN)
    assert CLOSE not in opcodes[:-1]
    assert (protocol.close_sent is None) == (protocol.state is State.OPEN)
