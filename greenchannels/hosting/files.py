"""
Files of a folder as a GSGI consumer: whole files, and no way out of the folder.
"""

from __future__ import annotations

import mimetypes
import os
import stat
from pathlib import Path

from ..errors import ConfigurationError
from ..types import Receive, Scope, Send

#: Bytes of a file that are read and sent at a time.
CHUNK = 256 * 1024

#: Types of text get a charset.
_TEXT = ("text/", "application/javascript", "application/json", "image/svg+xml")


class Folder:
    """
    Serve the files of one directory.

    Args:
        folder: The directory.

    Raises:
        ConfigurationError: If it is none.

    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.root = Path(folder).resolve()
        if not self.root.is_dir():
            raise ConfigurationError(f"no such folder: {os.fspath(folder)!r}")

    def __repr__(self) -> str:
        return f"Folder({str(self.root)!r})"

    def find(self, path: str) -> Path | None:
        """
        Return the regular file that ``path`` names, or ``None``.

        Nothing outside the folder is ever named: not by "..", not by a
        symbolic link, not by an absolute path.
        """
        parts = path.split("/")
        if "\0" in path or ".." in parts or os.sep != "/":
            return None
        try:
            found = self.root.joinpath(*(p for p in parts if p)).resolve()
            if found.is_dir():
                found = (found / "index.html").resolve()
            elif path.endswith("/"):
                return None
            is_file = stat.S_ISREG(found.stat().st_mode)
        except (OSError, ValueError, RuntimeError):
            return None
        if not is_file or not found.is_relative_to(self.root):
            return None
        return found

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the file that the rest of the path names."""
        path = self.find(scope["url_route"]["kwargs"]["path"])
        try:
            file = path.open("rb") if path is not None else None
        except OSError:
            file = None
        if path is None or file is None:
            send({"type": "http.response.start", "status": 404, "headers": []})
            send({"type": "http.response.body", "body": b"Not Found\n"})
            return
        with file:
            left = os.fstat(file.fileno()).st_size
            headers = [
                (b"content-type", content_type(path.name).encode()),
                (b"content-length", str(left).encode()),
            ]
            send({"type": "http.response.start", "status": 200, "headers": headers})
            while left and scope["method"] != "HEAD":
                data = file.read(min(CHUNK, left))
                if not data:
                    break  # the file has shrunk: the server cuts the connection
                left -= len(data)
                send({"type": "http.response.body", "body": data, "more_body": True})
            send({"type": "http.response.body", "body": b""})


def content_type(name: str) -> str:
    """Return the content type of a file called ``name``."""
    kind, encoding = mimetypes.guess_type(name)
    if kind is None or encoding is not None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith(_TEXT) else kind
