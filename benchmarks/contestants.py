"""The servers that can be measured: how each is started, and its label."""

import getpass
import grp
import os
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template

from . import assets

ROOT = Path(__file__).parent.parent
SERVERS = Path(__file__).parent / "servers"
YARDSTICK = "aiohttp"
OURS = "greenchannels"

MODULES = {
    YARDSTICK: "aiohttp_uvloop",
    "gevent-websocket": "gevent_websocket",
    "channels": "channels_uvicorn",
}
#: Answers a close with a broken payload on Python 3.
LAX_CLOSE = "gevent-websocket"
PEERS = {"websockets": "websockets_uvloop", "picows": "picows_uvloop"}
#: Those whose sockets the rows compare, where they name no others.
WITH_SOCKETS = (*MODULES, *PEERS)

GUNICORN, STARLETTE, NGINX = WITHOUT_SOCKETS = ("gunicorn", "starlette", "nginx")
#: Serves in two processes, and only where a row names it.
CHANNELS_REDIS = "channels_redis"
#: Its command line with our worker, but for how many, and the app.
GUNICORN_OURS = ("-m", "gunicorn", "--no-control-socket", "--log-level", "warning")
GUNICORN_OURS += ("-k", "greenchannels.gunicorn.Worker", "-b", "127.0.0.1:{port}")
#: Where system administrators' programs are, which not every PATH has.
SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the loads that a row puts on the same server, to compare them."""

    label: str
    #: Options of the load generator beside the row's.
    load: dict[str, str | int | float | bool] = field(default_factory=dict)
    #: What the server must have said in its output by the end.
    says: str = ""
    #: Whether the row's limits are this one's; else it is there for orientation.
    limited: bool = True
    #: Worker processes, which the server itself looks after; 0 if it serves alone.
    workers: int = 0
    #: Whether gunicorn looks after them instead.
    gunicorn: bool = False
    #: The URL of its layer: ``{redis[0].port}`` is the port of the first Redis server,
    #: ``{secret}`` a file with a secret. Its own default when empty.
    layer: str = ""
    #: Redis servers beside it.
    hosts: int = 0


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server: its label in the table and how to start it."""

    label: str
    #: Arguments of the program. ``{port}`` stands for the port, ``{app}`` for what
    #: is served, ``{certificate}``, ``{key}`` and ``{secret}`` for files,
    #: ``{redis[0].port}`` for the port of its first Redis server.
    arguments: tuple[str, ...]
    #: Folders that are imported from before all others.
    paths: tuple[Path, ...]
    program: str = sys.executable
    #: What ``{app}`` stands for.
    app: str = ""
    #: The module that the apps of the rows over HTTP are in.
    apps: str = ""
    #: Further arguments when it serves over TLS.
    tls: tuple[str, ...] = ()
    #: Whether it does.
    secure: bool = False
    #: A template of a file that is written to the folder that the server runs in.
    template: Path | None = None
    #: Whether a child of the process is the one that serves.
    forks: bool = False
    #: What stands before the name of a row's yardstick in its label.
    prefix: str = ""
    #: Options of the load generator that only this one needs.
    load: dict[str, str | int | float | bool] = field(default_factory=dict)
    #: What the server must have said in its output by the end.
    says: str = ""
    #: Whether the row's limits hold for it, if it is greenchannels.
    limited: bool = True
    #: Children that serve, beside the process that looks after them.
    workers: int = 0
    #: Redis servers that it needs, and those that it has in a round.
    hosts: int = 0
    redis: tuple[object, ...] = ()

    def command(self, port):
        """Return the command line that serves on a port."""
        values = {"port": port, "app": self.app, "redis": self.redis}
        arguments = self.arguments
        if self.redis:
            values["secret"] = assets.secret()
        if self.secure:
            values["certificate"], values["key"] = assets.certificate()
            arguments += self.tls
        return [self.program, *(part.format(**values) for part in arguments)]

    def environment(self, folder):
        """Return the environment of the server's process, which runs in a folder."""
        paths = os.pathsep.join(str(path) for path in self.paths)
        programs = f"{os.environ.get('PATH', os.defpath)}:{SYSTEM}"
        return os.environ | {
            "PATH": programs,
            "PYTHONPATH": paths,
            "BENCHMARK_FILES": str(assets.files()),
            "XDG_RUNTIME_DIR": folder,
        }

    def write_files(self, folder, port):
        """Write what the server needs to the folder that it will run in."""
        if self.template is not None:
            group = grp.getgrgid(os.getegid()).gr_name
            user = f"{getpass.getuser()} {group}"
            template = Template(self.template.read_text())
            text = template.substitute(port=port, files=assets.files(), user=user)
            (Path(folder) / self.template.name).write_text(text)

    @property
    def slow(self):
        """Say whether this is greenchannels without its optional C module."""
        built = "greenchannels/wire/_speedups*.so"
        return self.ours and not any(self.paths[0].glob(built))

    @property
    def ours(self):
        """Say whether this is greenchannels."""
        return self.label.startswith(OURS)

    def limited_by(self, yardstick):
        """Say whether a limit holds that is set by a yardstick of the row."""
        return self.ours and self.limited and self.label != self.prefix + yardstick

    def with_options(self, options):
        """Return the same server with further options on its command line."""
        return replace(self, arguments=(*self.arguments, *options))

    def serving(self, name):
        """Return the same server with another app; ``name`` may name its module."""
        return replace(self, app=name if ":" in name else f"{self.apps}:{name}")

    def over_tls(self):
        """Return the same server over TLS, with a certificate of our own making."""
        return replace(self, secure=True)

    def under(self, variant):
        """Return the same server under a variant of a row's load."""
        served = self.with_workers(variant.workers, variant.gunicorn)
        layer = ("--layer", variant.layer) if variant.layer else ()
        return replace(
            served.with_options(layer),
            label=f"{self.label}, {variant.label}",
            prefix=f"{self.label}, ",
            load=self.load | variant.load,
            says=variant.says,
            limited=variant.limited,
            hosts=variant.hosts,
        )

    def labels_of(self, yardstick):
        """Return what a yardstick may be called: a variant of this, or a server."""
        return self.prefix + yardstick, yardstick

    def with_workers(self, count, gunicorn=False):
        """Return the same greenchannels with worker processes, if there are to be."""
        if not count:
            return self
        arguments = (*self.arguments, "--workers", str(count))
        if gunicorn:
            arguments = (*GUNICORN_OURS, "-w", str(count), "{app}")
            app = f"{self.app.partition(':')[0]}:application"
            return replace(self, arguments=arguments, workers=count, app=app)
        return replace(self, arguments=arguments, workers=count)


def of_module(label, module):
    """Return a server of another library."""
    arguments = ("-m", f"benchmarks.servers.{module}", "{port}")
    load = {"lax-close": True} if label == LAX_CLOSE else {}
    tls = ("{certificate}", "{key}")
    return Contestant(label, arguments, (ROOT,), tls=tls, load=load)


def channels_redis():
    """Return Django Channels over Redis, in two processes that share a socket."""
    arguments = ("-m", "benchmarks.servers.channels_redis_uvicorn", "{port}")
    return Contestant(
        CHANNELS_REDIS,
        (*arguments, "{redis[0].port}"),
        (ROOT,),
        load={"spread": 2},
        workers=2,
        hosts=1,
    )


def gunicorn():
    """Return gunicorn with its gevent worker, which serves in a child."""
    arguments = ["-m", "gunicorn", "--no-control-socket", "-k", "gevent"]
    arguments += ["-b", "127.0.0.1:{port}", "{app}"]
    return Contestant(
        GUNICORN, tuple(arguments), (SERVERS,), apps="wsgi_apps", forks=True
    )


def starlette():
    """Return Starlette on uvicorn, with httptools and uvloop."""
    arguments = ["-m", "uvicorn", "{app}", "--host", "127.0.0.1", "--port", "{port}"]
    arguments += ["--http", "httptools", "--loop", "uvloop"]
    arguments += ["--no-access-log", "--log-level", "warning"]
    return Contestant(STARLETTE, tuple(arguments), (SERVERS,), apps="starlette_apps")


def nginx():
    """Return nginx with one worker, which serves in a child."""
    template = SERVERS / "nginx.conf"
    arguments = ("-p", ".", "-c", template.name, "-e", "stderr")
    return Contestant(
        NGINX, arguments, (), program="nginx", template=template, forks=True
    )


def of_checkout(label, path, extra=()):
    """Return greenchannels as it is in a source tree, with the routes of this one."""
    arguments = ["-m", "greenchannels", "run", "{app}"]
    arguments += ["--host", "127.0.0.1", "--port", "{port}"]
    arguments += ["--access-log", "off", "--log-level", "warning", *extra]
    return Contestant(
        label,
        tuple(arguments),
        (path, SERVERS),
        app="greenchannels_app:routing",
        apps="greenchannels_http",
        tls=("--certfile", "{certificate}", "--keyfile", "{key}"),
    )


def labelled(checkout):
    """Split ``LABEL=PATH``; a path alone is labelled by its last part."""
    label, _, path = checkout.rpartition("=")
    path = Path(path).resolve()
    return f"{OURS} {label or path.name}", path


def chosen(names, checkouts, peers, extra):
    """
    Return the servers to measure, in the order of the table.

    Args:
        names: The labels to keep; all when empty.
        checkouts: Other source trees of greenchannels, ``PATH`` or ``LABEL=PATH``.
        peers: Whether libraries that stand there for orientation take part.
        extra: Further arguments of ``greenchannels run``.

    """
    modules = MODULES | (PEERS if peers or set(names) & set(PEERS) else {})
    known = [of_module(label, module) for label, module in modules.items()]
    known += [channels_redis(), gunicorn(), starlette(), nginx()]
    known.append(of_checkout(OURS, ROOT, extra))
    found = [one for one in known if not names or one.label in names]
    others = [labelled(checkout) for checkout in checkouts]
    return found + [of_checkout(label, path, extra) for label, path in others]
