"""wrk as a load: requests over connections that are kept alive."""

import http.client
import re
import resource
import shutil
import subprocess
import time

from .cores import LOAD_CORE
from .loadgen import LoadError
from .usage import cpu_ns

#: One thread, on the load generator's core.
COMMAND = ("taskset", "-c", str(LOAD_CORE), "wrk", "-t1", "--latency")
#: What wrk says, and the fields that it becomes.
REQUESTS = re.compile(r"(\d+) requests in")
FAILURES = re.compile(r"(?:Socket errors|Non-2xx).*")
LATENCIES = {"p50_us": "50%", "p99_us": "99%"}
UNITS = {"us": 1, "ms": 1e3, "s": 1e6, "m": 60e6}


def missing():
    """Return what to install, or an empty text."""
    return "" if shutil.which("wrk") else "wrk is not installed (apt-get install wrk)"


def run(row, contestant, port, pids):
    """
    Put a row's load on a server.

    Returns:
        A report with the fields of ``loadgen``'s.

    Raises:
        LoadError: If an answer was wrong.

    """
    load = row.load
    check(port, row.path, load["size"])
    if load["warmup"]:
        requests(port, row.path, load["connections"], load["warmup"])
    before, own, at = cpu_ns(pids), own_seconds(), time.monotonic()
    output = requests(port, row.path, load["connections"], load["seconds"])
    server, seconds = cpu_ns(pids) - before, time.monotonic() - at
    count = int(REQUESTS.search(output)[1])
    if not count:
        raise LoadError("no request within the counted window")
    return {
        "messages": count,
        "seconds": seconds,
        "rate": count / seconds,
        "cpu_us": server / count / 1e3,
        "server_share": server / seconds / 1e9,
        "own_share": (own_seconds() - own) / seconds,
        "deflated": 0,
        **{name: latency(output, share) for name, share in LATENCIES.items()},
    }


def check(port, path, size):
    """Raise unless one request is answered with a body of so many bytes."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        found = len(response.read())
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"GET {path}: {error!r}") from error
    finally:
        connection.close()
    if (response.status, found) != (200, size):
        raise LoadError(f"GET {path}: {response.status} with {found} bytes")


def requests(port, path, connections, seconds):
    """Let wrk send requests for a time; it knows milliseconds only in Lua."""
    url = f"http://127.0.0.1:{port}{path}"
    duration = f"{max(1, round(seconds))}s"
    command = [*COMMAND, f"-c{connections}", "-d", duration, url]
    result = subprocess.run(command, capture_output=True, text=True)
    failures = FAILURES.search(result.stdout)
    if result.returncode or failures:
        raise LoadError(failures[0] if failures else result.stderr.strip())
    return result.stdout


def latency(output, share):
    """Return a percentile in microseconds."""
    found = re.search(rf"^\s+{share}\s+([\d.]+)([a-z]+)$", output, re.MULTILINE)
    return float(found[1]) * UNITS[found[2]]


def own_seconds():
    """Return the CPU time of the processes that this one has run so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
