"""What the figures were measured on: cores, kernel, Python, versions."""

import os
import platform
import re
import shutil
import ssl
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from .contestants import NGINX, SYSTEM
from .cores import AVAILABLE

PACKAGES = {
    "aiohttp": ["aiohttp", "uvloop"],
    "gevent-websocket": ["gevent-websocket", "wsaccel"],
    "channels": ["channels", "Django", "uvicorn"],
    "channels_redis": ["channels", "channels_redis", "Django", "uvicorn"],
    "websockets": ["websockets"],
    "picows": ["picows"],
    "gunicorn": ["gunicorn", "Flask", "gevent"],
    "starlette": ["starlette", "uvicorn", "httptools", "uvloop"],
    "greenchannels": ["gevent", "httptools", "gunicorn"],
}


def processor():
    """Return the processor's name as the kernel knows it."""
    names = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return names[0] if names else platform.machine()


def installed(package):
    """Return a package's name and version."""
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"{package} (absent)"


def nginx():
    """Return nginx's name and version."""
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:{SYSTEM}")
    if program is None:
        return "nginx (absent)"
    said = subprocess.run([program, "-v"], capture_output=True, text=True).stderr
    return said.rpartition(":")[2].strip().replace("/", " ")


def description(contestants):
    """Return a list of sentences about the machine and the versions in use."""
    families = {one.label.split()[0] for one in contestants}
    names = [
        name for family in PACKAGES if family in families for name in PACKAGES[family]
    ]
    unique = dict.fromkeys(names)
    return [
        f"{len(AVAILABLE)} cores ({processor()})",
        f"Linux {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        ssl.OPENSSL_VERSION.rpartition(" ")[0].rsplit(" ", 2)[0],
        *(installed(name) for name in unique),
        *([nginx()] if NGINX in families else []),
        *(f"{one.label} in pure Python" for one in contestants if one.slow),
    ]
