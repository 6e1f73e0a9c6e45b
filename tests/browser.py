"""Headless Chromium for tests of pages, where it and its driver are installed."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


def missing() -> str | None:
    """Why there is no browser here."""
    if importlib.util.find_spec("playwright") is None:
        return "no browser driver: pip install playwright"
    return None if CHROMIUM else "no browser: apt-get install chromium"


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser of playwright's, until the block ends."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()
