"""
What gunicorn's settings mean for a server of ours in one of its workers.

Imports nothing of gunicorn's: its objects are known by their attributes.
"""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from typing import Any

from .layers.ipc_folder import default_name
from .layers.registry import configured_url, with_name
from .options import ServerOptions

#: The part of --graceful-timeout that the drain may take; lifespans have the rest.
DRAIN_PART = 0.9


def layer_url(worker: Any) -> str:
    """Return the layer of a worker: the configured one, else what suits it."""
    app = str(getattr(worker.app, "app_uri", None) or worker.cfg.proc_name)
    name = default_name(app, os.getcwd(), os.getuid())
    if url := configured_url():
        return with_name(url, name)
    return f"ipc://{name}" if worker.cfg.workers > 1 else "memory://"


def read_options(cfg: Any, given: ServerOptions | None) -> ServerOptions:
    """
    Return the options that gunicorn's settings stand for.

    Args:
        cfg: The settings.
        given: What the application was made with, for all that gunicorn has not.

    """
    options = given or ServerOptions()
    http, timeouts = options.http, options.timeouts
    if (line := _changed(cfg, "limit_request_line")) is not None:
        http = replace(http, max_request_line=line or None)
    if (count := _changed(cfg, "limit_request_fields")) is not None:
        http = replace(http, max_headers=count)
    if (seconds := _changed(cfg, "keepalive")) is not None:
        timeouts = replace(timeouts, keep_alive=float(seconds))
    return replace(
        options,
        http=http,
        timeouts=timeouts,
        max_connections=cfg.worker_connections,
        drain=cfg.graceful_timeout * DRAIN_PART,
        multiprocess=options.multiprocess or cfg.workers > 1,
        proxies=options.proxies or (*cfg.forwarded_allow_ips, "unix"),
    )


def _changed(cfg: Any, name: str) -> Any:
    """Return a setting that is not gunicorn's default, else ``None``."""
    setting = cfg.settings[name]
    value = setting.get()
    return None if value == type(setting)().get() else value


def share_handlers(log: Any) -> None:
    """Have what we log go to gunicorn's error log, unless it is configured."""
    ours = logging.getLogger("greenchannels")
    if not ours.handlers and not logging.getLogger().handlers:
        ours.handlers = log.error_log.handlers
        ours.setLevel(log.error_log.level)
        ours.propagate = False
