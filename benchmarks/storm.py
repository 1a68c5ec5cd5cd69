"""A broadcast storm as a load: what stalled members cost, and whether it is counted."""

import http.client
import json

from . import loadgen
from .loadgen import LoadError

#: What the layer counts that was to reach a member, and did not.
LOSSES = ("frames dropped", "frames replaced", "events dropped", "events replaced")


def run(row, contestant, port, pids):
    """
    Put the load on a server, then compare what it counted with what was missed.

    Members that were closed, or cut, have missed at least what is counted: whoever
    has been closed is no member any more. All others have missed exactly that.

    Returns:
        The report of ``loadgen`` with what the server has counted.

    Raises:
        LoadError: If a member that reads missed something, or the counters are wrong.

    """
    report = loadgen.run(row, contestant, port, pids)
    options = loadgen.options_of(row, contestant)
    counts = stats(port)["slow"].get(options["path"], {})
    counted = sum(counts.get(name, 0) for name in LOSSES)
    missed, shed = report["missed"], report["shed"]
    if shed != counts.get("sockets closed", 0):
        raise LoadError(f"{shed} members were closed: {counts}")
    if options["path"].endswith("/close") != (shed == options["deaf"]):
        raise LoadError(f"{shed} of {options['deaf']} stalled members were closed")
    if not counted or (counted > missed if shed else counted != missed):
        raise LoadError(f"{missed} messages were missed: {counts}")
    return report | {"counted": counted}


def stats(port):
    """Return what the server has counted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", "/stats")
        response = connection.getresponse()
        text = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise LoadError(f"GET /stats: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise LoadError(f"GET /stats: {response.status}")
    return json.loads(text)
