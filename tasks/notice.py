"""Word to the people who run the pipeline, sent to the places that the settings name.

A place is a notification block of Prefect, which keeps its own secret, or an environment variable that holds an address
of Apprise (https://github.com/caronc/apprise): ``mailtos://...``, ``slack://...``, ``json://HOST``. Settings, artifacts
and logs hold the names alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable

import apprise
from prefect.blocks.abstract import NotificationBlock
from prefect.blocks.core import Block

from qwenlong_core.settings.secrets import without_secrets

logger = logging.getLogger(__name__)

# Apprise repeats an address that it does not understand, with the key in it. What matters is logged here.
logging.getLogger("apprise").addFilter(lambda record: False)


def require_places(places: Iterable[str]) -> None:
    """Refuse a place that cannot be written to, before anything runs.

    Raises:
        ValueError: naming the place, and never what its address is.
    """
    for place in places:
        _opened(place)


def send(places: Iterable[str], subject: str, body: str) -> None:
    """Send a message to every place. One that does not take it is named in the log and stops nothing."""
    subject, body = without_secrets(subject), without_secrets(body)
    for place in places:
        try:
            found = _opened(place)
            if isinstance(found, apprise.Apprise):
                taken = found.notify(title=subject, body=body)
            else:
                taken = found.notify(body, subject) is None
        # A receiver may fail in any way, and a lost message must not end a training. The error's own words may hold
        # the address, which may be a secret.
        except Exception as error:
            logger.warning("notice not sent to %s (%s): %s", place, type(error).__name__, subject)
        else:
            if not taken:
                logger.warning("notice not sent to %s, which did not take it: %s", place, subject)


def _opened(place: str) -> apprise.Apprise | NotificationBlock:
    """The receiver behind a place.

    Raises:
        ValueError: there is none, or it is none that can be notified.
    """
    if place.startswith("$"):
        address = os.environ.get(place[1:])
        if not address:
            raise ValueError(f"notify.to names {place}, which is not set: set the variable to an address of Apprise")
        found = apprise.Apprise()
        if not found.add(address):
            raise ValueError(f"notify.to: the value of {place} is no address that Apprise {apprise.__version__} knows")
        return found
    try:
        block = Block.load(place)
    except ValueError as error:
        raise ValueError(
            f"notify.to names {place!r}, a block that Prefect does not have: make it on Prefect's page Blocks, or by "
            "its class's save()"
        ) from error
    if not isinstance(block, NotificationBlock):
        raise ValueError(f"notify.to names {place!r}, which is no notification block but a {type(block).__name__}")
    return block
