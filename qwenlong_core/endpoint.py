"""Failures of OpenAI-compatible endpoints: what went wrong, whether to try again, and when.

Shared by everything that asks such a server: the judge of the rewards and the ``openai`` engine.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from qwenlong_core.proxies import by_way_of

_FIRST_BACKOFF_SECONDS = 0.5
_LONGEST_BACKOFF_SECONDS = 30.0
_RETRIED_STATUS = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """Why a request gave no usable reply."""

    text: str
    passing: bool = True
    """Whether another try can help."""
    unreachable: bool = False
    """Whether no connection came about or it broke, so that there is no reply of any kind."""
    retry_after: float | None = None
    """Seconds the server asked to wait."""


def fault_of(error: Exception, timeout_seconds: float) -> Fault:
    """The fault behind an error of the client; ``timeout_seconds`` is the setting that a timeout names."""
    import openai

    way = by_way_of(str(error.request.url)) if isinstance(error, openai.APIError) else ""
    if isinstance(error, openai.APIStatusError):
        return Fault(
            text=f"HTTP {error.status_code}: {str(error.message)[:200]}{way}",
            passing=error.status_code in _RETRIED_STATUS,
            retry_after=_retry_after(error.response.headers.get("retry-after")),
        )
    if isinstance(error, TimeoutError | openai.APITimeoutError):
        return Fault(text=f"no complete reply in timeout_seconds={timeout_seconds:g}{way}")
    unreachable = isinstance(error, openai.APIConnectionError)
    return Fault(text=f"{type(error).__name__}: {str(error)[:200]}{_cause(error)}{way}", unreachable=unreachable)


def _cause(error: Exception) -> str:
    return f" ({str(error.__cause__)[:200]})" if error.__cause__ else ""


def _retry_after(header: str | None) -> float | None:
    """Seconds from a ``Retry-After`` header: a number or an HTTP date (RFC 9110 section 10.2.3)."""
    if not header:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def pause_before(attempt: int, retry_after: float | None) -> float:
    """Seconds before try ``attempt + 2``: exponential with jitter, at least what the server asked for, bounded."""
    backoff = _FIRST_BACKOFF_SECONDS * 2.0**attempt * random.uniform(0.5, 1.0)
    return min(_LONGEST_BACKOFF_SECONDS, max(backoff, (retry_after or 0.0) * random.uniform(1.0, 1.1)))


def api_key(variable: str | None, setting: str) -> str:
    """The key in the environment variable; without a variable, a placeholder for an endpoint that needs no key.

    Raises:
        ValueError: the variable is not set.
    """
    if variable is None:
        return "none"  # the client insists on a key, local servers ignore it
    key = os.environ.get(variable)
    if not key:
        raise ValueError(
            f"{setting}={variable!r} is not set in the environment; "
            "export it, or leave the setting out for an endpoint without a key"
        )
    return key
