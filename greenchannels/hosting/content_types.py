"""
Content types by the names of files, the same on every machine.

Python's own table and what the web has added to it; the machine's ``mime.types``
is not asked. Text is said to be UTF-8.
"""

from __future__ import annotations

import mimetypes
import os

#: The type of what cannot be told by its name.
UNKNOWN = "application/octet-stream"

#: What Python's table has not, has only in some versions, or has otherwise.
_ADDED = {
    ".7z": "application/x-7z-compressed",
    ".atom": "application/atom+xml",
    ".avif": "image/avif",
    ".bz2": "application/x-bzip2",
    ".cjs": "text/javascript",
    ".flac": "audio/flac",
    ".geojson": "application/geo+json",
    ".glb": "model/gltf-binary",
    ".gltf": "model/gltf+json",
    ".gz": "application/gzip",
    ".ico": "image/x-icon",
    ".ics": "text/calendar",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".js": "text/javascript",
    ".json": "application/json",
    ".jsonld": "application/ld+json",
    ".jxl": "image/jxl",
    ".m3u8": "application/vnd.apple.mpegurl",
    ".m4a": "audio/mp4",
    ".map": "application/json",
    ".md": "text/markdown",
    ".mjs": "text/javascript",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".mpd": "application/dash+xml",
    ".oga": "audio/ogg",
    ".ogg": "audio/ogg",
    ".ogv": "video/ogg",
    ".opus": "audio/ogg",
    ".otf": "font/otf",
    ".rss": "application/rss+xml",
    ".svg": "image/svg+xml",
    ".toml": "application/toml",
    ".ttf": "font/ttf",
    ".vtt": "text/vtt",
    ".wasm": "application/wasm",
    ".wav": "audio/wav",
    ".weba": "audio/webm",
    ".webm": "video/webm",
    ".webmanifest": "application/manifest+json",
    ".webp": "image/webp",
    ".woff": "font/woff",
    ".woff2": "font/woff2",
    # XML says itself what its characters are; "text/xml" would say UTF-8.
    ".xml": "application/xml",
    ".xz": "application/x-xz",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}


def _make_table() -> dict[str, str]:
    python = mimetypes.MimeTypes()  # no files: Python's own table only
    common, standard = python.types_map
    return {**common, **standard, **_ADDED}


_TYPES = _make_table()

#: Types beside text/* whose characters need to be told.
_CHARACTERS = (
    "text/",
    "application/json",
    "image/svg+xml",
    "application/manifest+json",
)


def content_type(name: str) -> str:
    """Return the content type of a file called ``name``."""
    kind = _TYPES.get(os.path.splitext(name)[1].lower(), UNKNOWN)
    return f"{kind}; charset=utf-8" if kind.startswith(_CHARACTERS) else kind
