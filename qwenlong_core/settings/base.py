"""What every settings block shares: unknown keys are refused, and addresses hold no secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field


class Block(BaseModel):
    """A frozen settings block that refuses unknown keys, and numbers that JSON cannot carry to a stage."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


_SECRET_NAME = "(?:pass|pwd|token|key|secret|sig|credential|auth)"

_SECRET_QUERY = re.compile(rf"(^|[&;])[^=&;]*{_SECRET_NAME}[^=&;]*=", re.IGNORECASE)


def _without_secret(url: str) -> str:
    parts = urlsplit(url)
    # A name alone is a login at a database and a token at a web server.
    token = parts.username if parts.scheme in ("http", "https") else None
    if parts.password or token or _SECRET_QUERY.search(parts.query):
        shown = f"{parts.scheme}://***@{parts.netloc.rpartition('@')[2]}{parts.path}"
        raise ValueError(
            f"{shown!r} carries a password or key, which would be written into artifacts and logs: "
            "leave it out and give it in an environment variable"
        )
    return url


def without_secrets(text: str) -> str:
    """A message without the passwords and keys of the addresses in it."""
    text = re.sub(r"(?<=://)[^/\s'\"]*@", "***@", text)
    return re.sub(rf"(?i)(?<=[?&;])([^=&;\s]*{_SECRET_NAME}[^=&;\s]*=)[^&;\s'\"]*", r"\1***", text)


PlainUrl = Annotated[str, AfterValidator(_without_secret)]
"""An address without a password, token or key in it."""

Strings = Annotated[tuple[PlainUrl, ...], BeforeValidator(_as_tuple)]
"""A list of paths or addresses; a single one stands for a list of one."""

Name = Annotated[str, Field(min_length=1)]
"""A folder or a name, which an empty one is not: as a folder it would be the working directory."""

Share = Annotated[float, Field(ge=0, le=1)]

Stop = tuple[Annotated[str, Field(min_length=1)], ...]
"""Strings that end a completion, beside the model's own end-of-sequence token."""
