"""The page itself: the files of static/, read once, and sent with what keeps a browser from running anything else."""

import gzip
from hashlib import sha256
from pathlib import Path

from msgspec import Struct

_STATIC = Path(__file__).with_name("static")
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}

#: Nothing of another origin, no inline script; uPlot sets sizes as styles of elements, by script, which needs no rule.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
SAFETY = (
    f"content-security-policy: {POLICY}\r\nx-content-type-options: nosniff\r\nx-frame-options: DENY\r\n"
    "referrer-policy: no-referrer\r\ncross-origin-opener-policy: same-origin\r\n"
).encode()


class StaticFile(Struct, frozen=True):
    """One file, as it is sent."""

    content_type: str
    content: bytes  # gzip
    tag: bytes  # its ETag


def static_files() -> dict[str, StaticFile]:
    """Return every file by its name."""
    return {path.name: _read(path) for path in sorted(_STATIC.iterdir()) if path.suffix in _TYPES}


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    tag = b'"%b"' % sha256(content).hexdigest()[:16].encode()
    return StaticFile(_TYPES[path.suffix], gzip.compress(content, mtime=0), tag)
