"""A master, its replicas and the sentinels that watch them, which tests kill."""

import contextlib
import os
import tempfile

import hiredis

from greenchannels.testing.recording import until
from tests.layers.redis_harness import MEMORY, RedisServer, free_port

#: What the sentinels call the master.
SERVICE = "mymaster"

#: Milliseconds between what sentinels do, so that tests are quick. In a failover they
#: look at replicas each second, and need to have done so within five times "ping" to
#: choose one, and within four times "publish", lest others take the change back.
PERIODS = {"info": 100, "ping": 500, "ask": 100, "publish": 600}

#: Seconds in which a group is whole again.
SETTLED = 60.0


class Sentinel(RedisServer):
    """One of those who watch; it tells a new one of itself what it has written."""

    def __init__(self, folder, master, password=None):
        self._config = os.path.join(folder, "sentinel.conf")
        self._port = free_port()
        with open(self._config, "w", encoding="ascii") as file:
            file.write(f"port {self._port}\nbind 127.0.0.1\ndir {folder}\n")
            file.write(f"sentinel monitor {SERVICE} 127.0.0.1 {master.port} 2\n")
            file.write(f"sentinel down-after-milliseconds {SERVICE} 1000\n")
            file.write(f"sentinel failover-timeout {SERVICE} 2000\n")
            if master.password:
                file.write(f"sentinel auth-pass {SERVICE} {master.password}\n")
            if password:
                file.write(f"requirepass {password}\n")
                file.write(f"sentinel sentinel-pass {password}\n")
        super().__init__(folder, password=password, port=self._port)

    def command(self):
        """Return what starts it."""
        return [self._binary, self._config, "--sentinel"]

    def start(self):
        """Start it, and make it quick."""
        super().start()
        for name, period in PERIODS.items():
            with contextlib.suppress(hiredis.ReplyError):
                self.ask("SENTINEL", "DEBUG", f"{name}-period", period)

    def master(self):
        """Return the port where it takes the master to be."""
        found = self.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1])

    def is_content(self, servers):
        """Say whether it knows all of them, and could have one take over."""
        with contextlib.suppress(OSError, EOFError, hiredis.ReplyError):
            self.ask("SENTINEL", "CKQUORUM", SERVICE)
            replicas = self.ask("SENTINEL", "REPLICAS", SERVICE)
            found = [dict(zip(it[::2], it[1::2], strict=True)) for it in replicas]
            well = [it for it in found if it[b"flags"] == b"slave"]
            linked = [it for it in well if it[b"master-link-status"] == b"ok"]
            return len(linked) == servers - 1
        return False


class Watched:
    """
    A master with replicas, and three sentinels.

    Args:
        folder: Where they run.
        replicas: How many.
        password: Of the servers.
        sentinel_password: Of the sentinels.

    """

    def __init__(self, folder, replicas=1, password=None, sentinel_password=None):
        self.servers = []
        self.sentinels = []
        self._folder = folder
        options = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]
        if password:
            options += ["--requirepass", password, "--masterauth", password]
        try:
            for _ in range(1 + replicas):
                it = RedisServer(self._new_folder(), *options, password=password)
                self.servers.append(it)
            for it in self.servers[1:]:
                it("REPLICAOF", "127.0.0.1", self.servers[0].port)
            for _ in range(3):
                folder = self._new_folder()
                it = Sentinel(folder, self.servers[0], sentinel_password)
                self.sentinels.append(it)
            self.settle()
        except BaseException:
            self.kill()
            raise

    def _new_folder(self):
        return tempfile.mkdtemp(dir=self._folder)

    def url(self, **options):
        """Return its URL for an application."""
        options.setdefault("prefix", "test")
        query = "&".join(f"{name}={value}" for name, value in options.items())
        hosts = ",".join(f"127.0.0.1:{it.port}" for it in self.sentinels)
        password = self.servers[0].password
        secret = f":{password}@" if password else ""
        return f"redis+sentinel://{secret}{hosts}/{SERVICE}?{query}"

    def settle(self):
        """Have all of them run, and wait until all is well."""
        for it in [*self.servers, *self.sentinels]:
            if not it.runs:
                it.start()

        def settled():
            masters = {it.master() for it in self.sentinels}
            count = len(self.servers)
            return len(masters) == 1 and all(
                it.is_content(count) for it in self.sentinels
            )

        until(settled, SETTLED)

    @property
    def master(self):
        """The server that most sentinels take for the master."""
        ports = [it.master() for it in self.sentinels if it.runs]
        port = max(ports, key=ports.count)
        (found,) = [it for it in self.servers if it.port == port]
        return found

    def agree(self, before):
        """Wait until all sentinels take another than ``before`` for the master."""

        def others():
            ports = {it.master() for it in self.sentinels if it.runs}
            return len(ports) == 1 and before.port not in ports

        until(others, SETTLED)

    def fail_over(self):
        """Have the sentinels change the master, without need."""

        def accepted():
            with contextlib.suppress(hiredis.ReplyError):
                return self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)

        until(accepted, SETTLED)

    def kill(self):
        """Kill all."""
        for it in [*self.servers, *self.sentinels]:
            it.kill()


@contextlib.contextmanager
def running_sentinels(**options):
    """Have a group for as long as the block lasts."""
    with tempfile.TemporaryDirectory(prefix="gc-", dir=MEMORY) as folder:
        group = Watched(folder, **options)
        try:
            yield group
        finally:
            group.kill()
