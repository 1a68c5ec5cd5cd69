"""Where ``run`` listens: --bind and its short forms, or what systemd hands over."""

from __future__ import annotations

import errno
import os
import re
from _socket import socket as RawSocket
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass
from typing import Any

import click

from ..net.binding import adopt, bind_all, bind_unix, close_listening

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8000

#: The first descriptor that systemd hands over (sd_listen_fds(3)).
FIRST_FD = 3

#: What systemd says of them, and what children must not take for theirs.
VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")

_TCP = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class TCPBind:
    """A name or an address, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class UnixBind:
    """The path of a Unix socket."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class InheritedBind:
    """A descriptor that this process was started with."""

    fd: int
    name: str = ""

    def __str__(self) -> str:
        return f"fd {self.fd} ({self.name})" if self.name else f"fd {self.fd}"


Bind = TCPBind | UnixBind | InheritedBind


class BindError(Exception):
    """
    Some address cannot be listened on.

    Attributes:
        inherited: Whether it is a descriptor, so that the command line is wrong.

    """

    def __init__(self, bind: Bind, error: OSError) -> None:
        super().__init__(f"cannot listen on {bind}: {error.strerror or error}")
        self.inherited = isinstance(bind, InheritedBind)


class ActivationError(Exception):
    """What systemd says of its sockets makes no sense."""


class Address(click.ParamType):  # type: ignore[type-arg]
    """HOST:PORT, [IPv6]:PORT, unix:PATH or fd:N."""

    name = "address"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> Bind:
        """Return the bind."""
        if isinstance(value, Bind):
            return value
        found = read_bind(str(value))
        if found is None:
            self.fail(
                f"{value!r} is no address: write HOST:PORT, [IPv6]:PORT, unix:PATH"
                " or fd:N",
                param,
                ctx,
            )
        return found


def read_bind(text: str) -> Bind | None:
    """Return the bind that ``text`` means, ``None`` if it means none."""
    kind, _, rest = text.partition(":")
    if kind == "unix":
        return UnixBind(rest) if rest else None
    if kind == "fd":
        fits = rest.isascii() and rest.isdigit() and len(rest) < 10
        return InheritedBind(int(rest)) if fits else None
    match = _TCP.fullmatch(text)
    if match is None or int(match["port"]) > 0xFFFF:
        return None
    return TCPBind(match["v6"] or match["host"], int(match["port"]))


def read_activation(environ: MutableMapping[str, str]) -> list[InheritedBind]:
    """
    Return the sockets that systemd handed over to this process, if any.

    Their variables are removed: processes started from here have no such sockets.

    Args:
        environ: The environment.

    Raises:
        ActivationError: If the variables are for this process and make no sense.

    """
    found = {name: environ.pop(name, "") for name in VARIABLES}
    if found["LISTEN_PID"] != str(os.getpid()):
        return []
    count = found["LISTEN_FDS"]
    if not (count.isascii() and count.isdigit() and len(count) < 6):
        raise ActivationError(f"LISTEN_FDS={count!r} is not a number of descriptors")
    names = found["LISTEN_FDNAMES"].split(":")
    names += [""] * (int(count) - len(names))
    return [InheritedBind(FIRST_FD + i, names[i]) for i in range(int(count))]


def choose(values: dict[str, Any], activated: list[InheritedBind]) -> list[Bind]:
    """
    Return where to listen.

    Args:
        values: The command's.
        activated: What systemd handed over; used if nothing else is asked for.

    Raises:
        click.UsageError: If --host or --port stand beside --bind.

    """
    binds: list[Bind] = list(values["binds"])
    named = values["host"] is not None or values["port"] is not None
    if binds and named:
        raise click.UsageError("--host and --port do not go with --bind")
    for name in ("unix", "host"):
        if values[name] == "":
            raise click.UsageError(f"--{name} is empty")
    if values["unix"] is not None:
        binds.append(UnixBind(values["unix"]))
    if values["fd"] is not None:
        binds.append(InheritedBind(values["fd"]))
    if binds or (activated and not named):
        return binds or list(activated)
    port = DEFAULT_PORT if values["port"] is None else values["port"]
    host = DEFAULT_HOST if values["host"] is None else values["host"]
    return [TCPBind(host, port)]


def bind_each(
    binds: Iterable[Bind], unix_mode: int | None, *, write_timeout: float | None
) -> list[RawSocket]:
    """
    Return the listening sockets of ``binds``.

    Args:
        binds: Where to listen.
        unix_mode: The permissions of Unix sockets' files.
        write_timeout: Seconds that sent data may stay unacknowledged.

    Raises:
        BindError: If there is none; then all are closed again.

    """
    socks: list[RawSocket] = []
    try:
        for bind in binds:
            try:
                socks += _bind(bind, write_timeout, unix_mode)
            except OSError as error:
                raise BindError(bind, error) from error
            except UnicodeError as error:  # of the codec for names of hosts
                wrong = OSError(errno.EINVAL, "this cannot be the name of a host")
                raise BindError(bind, wrong) from error
    except BaseException:
        for sock in socks:
            close_listening(sock)
        raise
    return socks


def _bind(
    bind: Bind, write_timeout: float | None, unix_mode: int | None
) -> list[RawSocket]:
    if isinstance(bind, UnixBind):
        return [bind_unix(bind.path, unix_mode)]
    if isinstance(bind, InheritedBind):
        return [adopt(bind.fd, write_timeout=write_timeout)]
    bind.host.encode("idna")  # the resolver's thread would print its own traceback
    return bind_all(bind.host, bind.port, write_timeout=write_timeout)


def bind_options(command: Any) -> Any:
    """Give a command the options that say where it listens."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


class Mode(click.ParamType):  # type: ignore[type-arg]
    """Permissions as an octal number."""

    name = "octal"

    def convert(
        self,
        value: Any,
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> int:
        """Return the mode."""
        if isinstance(value, int):
            return value
        if not re.fullmatch(r"(?:0o?)?[0-7]{1,3}", value):
            self.fail(f"{value!r} is no mode: write 660", param, ctx)
        return int(value.removeprefix("0o"), 8)


_OPTIONS = [
    click.option(
        "--bind",
        "binds",
        multiple=True,
        type=Address(),
        metavar="ADDRESS",
        help="Listen on HOST:PORT, [IPv6]:PORT, unix:PATH or fd:N. Repeatable.",
    ),
    click.option(
        "--host", help=f"To listen on, without --bind.  [default: {DEFAULT_HOST}]"
    ),
    click.option(
        "--port",
        type=click.IntRange(0, 65535),
        help=f"To listen on; 0 takes any free one.  [default: {DEFAULT_PORT}]",
    ),
    click.option("--unix", metavar="PATH", help="Listen on a Unix socket instead."),
    click.option(
        "--unix-mode",
        type=Mode(),
        help="Permissions of Unix sockets' files, as 660.  [default: by the umask]",
    ),
    click.option(
        "--fd",
        type=click.IntRange(0),
        metavar="N",
        help="Listen on a socket that this process was started with.",
    ),
]
