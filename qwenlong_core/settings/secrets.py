"""Keep passwords and keys out of settings and messages."""

from __future__ import annotations

import re
from urllib.parse import urlsplit

_SECRET_NAME = "(?:pass|pwd|token|key|secret|sig|credential|auth)"
_SECRET_QUERY = re.compile(rf"(^|[&;])[^=&;]*{_SECRET_NAME}[^=&;]*=", re.IGNORECASE)


def refuse_secret(url: str) -> str:
    """The address unchanged.

    Raises:
        ValueError: it carries a password, token or key; the message does not repeat it.
    """
    parts = urlsplit(url)
    # A user name alone is harmless at a database, but web servers take a token in its place.
    token = parts.username if parts.scheme in ("http", "https") else None
    if parts.password or token or _SECRET_QUERY.search(parts.query):
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ValueError(
            f"{shown!r} carries a password or key, which would be written into artifacts and logs: "
            "leave it out and give it in an environment variable"
        )
    return url


def without_secrets(text: str) -> str:
    """The text with the passwords and keys of the addresses in it replaced by ``***``."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)
    return re.sub(rf"(?i)(?<=[?&;])([^=&;\s]*{_SECRET_NAME}[^=&;\s]*=)[^&;\s'\"]*", r"\1***", text)
