"""Proxies: which addresses never go through one, and what to say when one is in the way.

The one place that decides it. HTTP clients read ``HTTP_PROXY``, ``HTTPS_PROXY`` and ``ALL_PROXY`` from the
environment, and so do child processes; this module writes ``NO_PROXY`` there. Pass an address to :func:`reached` before
a client of it is made.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import logging
import os
import urllib.request
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_SECONDS = 5.0
"""How long a proxy may take to answer."""
_OF_PROXIES = frozenset({407, 502, 503, 504})
"""HTTP statuses with which a proxy says that it does not pass a request on."""


def is_loopback(url: str) -> bool:
    """Whether the address is on this machine: ``localhost``, ``127.0.0.0/8``, ``::1``, or any address (``0.0.0.0``)."""
    host = urlsplit(url).hostname or ""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def spare_loopback(*urls: str) -> None:
    """Keep loopback, and those of these addresses that are on it, from every proxy, here and in child processes."""
    hosts = [*_LOOPBACK, *(urlsplit(url).hostname or "" for url in urls if is_loopback(url))]
    for name in ("no_proxy", "NO_PROXY"):
        # Clients read one of the two, so each gets what the other has.
        listed = [host.strip() for key in ("no_proxy", "NO_PROXY") for host in os.environ.get(key, "").split(",")]
        os.environ[name] = ",".join(dict.fromkeys(host for host in [*listed, *hosts] if host))
    _leave_out_unusable()


def _leave_out_unusable() -> None:
    """Drop the proxies that the HTTP client cannot use: with one, it cannot even be made for another address."""
    with_socks = importlib.util.find_spec("socksio") is not None
    known = {"http", "https", "socks5", "socks5h"} if with_socks else {"http", "https"}
    for variable, address in _variables():
        scheme = address.partition("://")[0].lower() if "://" in address else "http"
        if scheme not in known:
            mend = "" if with_socks or not scheme.startswith("socks5") else " (pip install socksio)"
            logger.warning("%s is not used: no client here speaks %s%s", _shown(variable, address), scheme, mend)
            del os.environ[variable]


def _variables() -> list[tuple[str, str]]:
    names = ("http_proxy", "https_proxy", "all_proxy")
    return [(name, value) for name, value in os.environ.items() if name.lower() in names and value]


def _shown(variable: str, address: str) -> str:
    """``HTTP_PROXY=http://proxy:3128``, without the name and password that the address may hold."""
    parts = urlsplit(address if "://" in address else f"http://{address}")
    return f"{variable}={parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def proxy_of(url: str) -> str | None:
    """The proxy that a request to this address takes, as ``VARIABLE=ADDRESS``; ``None`` if it goes directly."""
    parts = urlsplit(url)
    if is_loopback(url) or urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    found = dict(_variables())
    for name in (f"{parts.scheme}_proxy", f"{parts.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY"):
        if name in found:
            return _shown(name, found[name])
    return None


def by_way_of(url: str) -> str:
    """For an error message: the proxy on the way to this address and the mend; empty without a proxy."""
    proxy = proxy_of(url)
    if proxy is None:
        return ""
    return f" (asked through the proxy {proxy}; if it needs none, add {urlsplit(url).hostname} to NO_PROXY)"


def proxy_trouble(url: str) -> str | None:
    """What is wrong with the proxy on the way to this address; ``None`` if nothing is, or there is none.

    It sends one request, and only through a proxy.
    """
    if proxy_of(url) is None:
        return None
    import httpx  # lazy: without a proxy nothing is asked

    try:
        status = httpx.get(url, timeout=_SECONDS).status_code
    except httpx.TimeoutException:
        said = f"no answer in {_SECONDS:g} seconds"
    except httpx.HTTPError as error:
        said = str(error) or type(error).__name__
    else:
        if status not in _OF_PROXIES:
            return None
        said = f"HTTP {status}"
    return f"{url}: {said}{by_way_of(url)}"


def reached(url: str) -> str:
    """The address unchanged, once the way to it is clear.

    Raises:
        ConnectionError: the proxy on the way does not pass requests on.
    """
    spare_loopback(url)
    if trouble := proxy_trouble(url):
        raise ConnectionError(trouble)
    return url
