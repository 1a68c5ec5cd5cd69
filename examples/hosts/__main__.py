"""
The chat on two hosts that meet at a Redis: all of it on this machine.

Each "host" is ``greenchannels run --workers 2`` on a port of its own, with a folder of
its own for what processes of one machine share: only Redis connects the two.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from websockets.sync.client import connect

ROOT = Path(__file__).parents[2]
PATIENCE = 30  # seconds


def main():
    """Start everything, show it, and end it all at Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.ExitStack() as stack, contextlib.suppress(KeyboardInterrupt):
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        url = start_redis(stack, folder)
        print(f"Redis    {url}")
        ports = []
        for name in ("A", "B"):
            ports.append(start_host(stack, folder / name, url))
            print(f"Host {name}   http://127.0.0.1:{ports[-1]}/ (2 workers)")
        show(*ports)
        print("Open both pages and chat; Ctrl-C ends everything.", flush=True)
        signal.pause()


def start_redis(stack, folder):
    """Start a server that keeps nothing; return its URL."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        sys.exit("install redis-server or valkey-server")
    port = free_port()
    options = ("--port", str(port), "--bind", "127.0.0.1", "--save", "")
    start(stack, [program, *options], folder / "redis")
    wait_for(folder / "redis/log", "eady to accept connections")
    return f"redis://127.0.0.1:{port}"


def start_host(stack, folder, url):
    """Start the chat with two workers; return its port."""
    command = [sys.executable, "-m", "greenchannels", "run", "examples.chat:routing"]
    command += ["--port", "0", "--workers", "2", "--layer", url]
    start(stack, command, folder)
    found = wait_for(folder / "log", r"Listening on http://127\.0\.0\.1:(\d+)")
    return int(found[1])


def start(stack, command, folder):
    """Start a program that writes to ``folder/log``; it ends with the stack."""
    folder.mkdir(mode=0o700)
    environment = os.environ | {"XDG_RUNTIME_DIR": str(folder)}
    with open(folder / "log", "wb") as log:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    stack.callback(process.wait, PATIENCE)
    stack.callback(process.terminate)


def wait_for(log, pattern):
    """Wait until a program has said something; return the match."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        found = re.search(pattern, log.read_text())
        if found is not None:
            return found
        time.sleep(0.05)
    sys.exit(f"it did not start:\n{log.read_text()}")


def free_port():
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def show(port_a, port_b):
    """Have Ann, at one host, and Ben, at the other, talk to each other."""
    address = "ws://127.0.0.1:{}/chat/lobby?name={}"
    with (
        connect(address.format(port_a, "Ann")) as ann,
        connect(address.format(port_b, "Ben")) as ben,
    ):
        for person in (ann, ben):
            say(person, "Is somebody here?")  # the answer: this one is
        talk = ((ann, ben, "Hello from host A!"), (ben, ann, "Hello, A! This is B."))
        for speaker, listener, text in talk:
            say(speaker, text)
            said = hear(listener, text)
            print(f"         {said['name']} is heard at the other: {text}")


def say(person, text):
    """Say something in the room, and wait until that is done."""
    person.send(json.dumps({"type": "text", "text": text}))
    hear(person, text)


def hear(person, text):
    """Wait until somebody hears a text, their own or another's; return all of it."""
    while True:
        message = json.loads(person.recv(timeout=PATIENCE))
        if message.get("text") == text:
            return message


if __name__ == "__main__":
    main()
