"""Moves of the alias ``champion``: by a promotion or a rollback, one at a time, each with its reason.

MLflow sets an alias without comparing, so of two promotions at once the last would silently win. Every move
therefore first claims its number in the artifact store (``claims/champion/MODEL-CREATED/NUMBER``), where only one
writer can. The claim's text is the whole move. If its writer is killed before it reaches the registry, the next process
that finds the claim carries the move out.
"""

from __future__ import annotations

import getpass
import socket
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from mlflow.tracking import MlflowClient
from pydantic import Field

from qwenlong.tasks.tracking.client import client_for
from qwenlong.tasks.tracking.registry import CHAMPION, PREVIOUS, RegisteredVersion, by_alias, versions_of
from qwenlong_core.errors import Refused
from qwenlong_core.promotion.decision import read_decision
from qwenlong_core.settings.base import Block
from qwenlong_core.settings.running import TrackingSettings
from qwenlong_core.store.artifacts import now
from qwenlong_core.store.protocol import Store

_NUMBER = "champion.moves"
"""Tag of the registered model: number of the last move that was carried out on the aliases."""
_GRACE_SECONDS = 30.0
"""A move that was claimed this long ago and is not carried out was interrupted. Another process waits this long
before it does so itself, since MLflow fails when two processes set one tag at the same time."""


class RollbackRefused(Refused):
    """A rollback that cannot be made; the message says why."""


def _who() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


class Move(Block):
    """One change of the champion."""

    kind: Literal["promotion", "rollback"]
    leaving: str | None
    """The champion's version before the move; ``None`` if there was no champion."""
    version: str
    """The champion's version after the move."""
    reason: str
    runs: str = ""
    """The runs that led to the decision, in words, with their ids."""
    at: str = Field(default_factory=now)
    by: str = Field(default_factory=_who)
    token: str = Field(default_factory=lambda: uuid.uuid4().hex)
    """By which a writer recognizes its own claim."""

    @property
    def words(self) -> str:
        """``version 2 was promoted at ... by ...``."""
        done = "promoted" if self.kind == "promotion" else f"restored by a rollback from version {self.leaving}"
        return f"version {self.version} was {done} at {self.at[:19]}Z by {self.by}"


def _version(champion: RegisteredVersion | None) -> str | None:
    return champion.version if champion else None


def _set_tags(client: MlflowClient, name: str, version: str, tags: dict[str, str]) -> None:
    for key, value in tags.items():
        client.set_model_version_tag(name, version, key, value)


def _moves_made(client: MlflowClient, name: str) -> int:
    return int(client.get_registered_model(name).tags.get(_NUMBER, "0"))


def _finish_other(client: MlflowClient, name: str, move: Move, number: int) -> None:
    """Wait until the writer of a move has carried it out, and do it in its place if it does not."""
    while (datetime.now(UTC) - datetime.fromisoformat(move.at)).total_seconds() < _GRACE_SECONDS:
        if _moves_made(client, name) >= number:
            return
        time.sleep(0.5)
    if _moves_made(client, name) < number:
        _carry_out(client, name, move, number)


def _carry_out(client: MlflowClient, name: str, move: Move, number: int) -> None:
    """Set the registry's tags and aliases as the move says. Doing it again changes nothing."""
    if move.kind == "promotion":
        tags = {"champion.since": move.at, "champion.by": move.by, "champion.over": move.leaving or "none"}
        _set_tags(client, name, move.version, {**tags, "champion.reason": move.reason, "champion.runs": move.runs})
        if move.leaving:
            client.set_registered_model_alias(name, PREVIOUS, move.leaving)
    elif move.leaving:
        tags = {
            "rollback.at": move.at,
            "rollback.by": move.by,
            "rollback.to": move.version,
            "rollback.reason": move.reason,
        }
        _set_tags(client, name, move.leaving, tags)
        client.delete_registered_model_alias(name, PREVIOUS)
    client.set_registered_model_alias(name, CHAMPION, move.version)
    # Last: until this number is set, the next process finds the move by its number and carries it out again.
    client.set_registered_model_tag(name, _NUMBER, str(number))


def _move_champion(settings: TrackingSettings, store: Store, move: Move) -> Move | None:
    """Make a move if the champion is still the one that it leaves.

    Returns:
        ``move`` if it was made. Otherwise the move that was made instead, or ``None`` if somebody set the alias
        without a move.
    """
    client, name = client_for(settings), settings.registered_model
    last: Move | None = None
    while True:
        model = client.get_registered_model(name)
        number = int(model.tags.get(_NUMBER, "0")) + 1
        # Read the alias after the number. Then a champion that changes from here on has claimed the number.
        if _version(by_alias(settings, CHAMPION)) != move.leaving:
            return last
        text = store.claim(f"champion/{name}-{model.creation_timestamp}/{number}", move.model_dump_json())
        last = Move.model_validate_json(text)
        if last.token == move.token:
            _carry_out(client, name, move, number)
            return move
        _finish_other(client, name, last, number)


def _rolled_back(settings: TrackingSettings, version: RegisteredVersion) -> str | None:
    """When and why this model was rolled back, in words; ``None`` if it was not, or has been promoted since."""
    same = [found.tags for found in versions_of(settings, version.model)]
    promoted = max((tags.get("champion.since", "") for tags in same), default="")
    last: dict[str, str] = max(same, key=lambda tags: tags.get("rollback.at", ""), default={})
    if last.get("rollback.at", "") <= promoted:
        return None
    return f"it was rolled back at {last['rollback.at'][:19]}Z by {last['rollback.by']} ({last['rollback.reason']})"


def is_champion(settings: TrackingSettings, version: RegisteredVersion) -> bool:
    """Whether the registry's champion is this version."""
    return _version(by_alias(settings, CHAMPION)) == version.version


def apply_decision(
    settings: TrackingSettings,
    store: Store,
    version: RegisteredVersion,
    baseline: RegisteredVersion | None,
    decision: Path,
    *,
    fresh: bool,
    runs: str,
) -> str:
    """Carry out a promotion decision on the aliases; returns what was done, in words.

    ``champion`` moves to the version only if the decision says so, the champion is still the ``baseline`` that the
    version was compared with, and the model was not rolled back after the decision. The old champion becomes
    ``previous``. Doing it again changes nothing.

    Args:
        decision: the promote stage's folder.
        fresh: the decision was made just now. One from the cache does not undo a rollback.
        runs: the runs that led to the decision, for the version's tags.
    """
    verdict = read_decision(decision)
    if is_champion(settings, version):
        return f"version {version.version} is champion"
    said = _apply(settings, store, version, baseline, verdict, fresh=fresh, runs=runs)
    client = client_for(settings)
    _set_tags(
        client,
        version.name,
        version.version,
        {
            "promotion.outcome": said,
            "promotion.verdict": verdict["verdict"],
            "promotion.at": now(),
            "promotion.runs": runs,
        },
    )
    return said


def _apply(
    settings: TrackingSettings,
    store: Store,
    version: RegisteredVersion,
    baseline: RegisteredVersion | None,
    verdict: dict[str, str],
    *,
    fresh: bool,
    runs: str,
) -> str:
    """What :func:`apply_decision` does where the version is not champion already."""
    champion = by_alias(settings, CHAMPION)
    if not verdict["promote"]:
        kept = f"champion stays version {champion.version}" if champion else "there is no champion"
        return f"version {version.version} not promoted, {kept}: {verdict['reason']}"
    # A decision from the cache was made before the rollback, and would undo it.
    if not fresh and (why := _rolled_back(settings, version)):
        return (
            f"version {version.version} not promoted: {why}; to decide again, run the flow `promote`, or refresh the"
            " pipeline's stage `promote`"
        )
    move = Move(
        kind="promotion", leaving=_version(baseline), version=version.version, reason=verdict["reason"], runs=runs
    )
    made = _move_champion(settings, store, move)
    if made is not None and made.token == move.token:
        return f"version {version.version} promoted to champion: {verdict['reason'].removeprefix('promoted: ')}"
    # Another process was first: its claim took the number.
    now_there = made.words if made else f"it is version {_version(by_alias(settings, CHAMPION))}"
    return f"version {version.version} not promoted: the champion has changed meanwhile ({now_there}); decide again"


def roll_back(settings: TrackingSettings, store: Store, reason: str) -> Move:
    """Restore the champion that was replaced by the last promotion.

    It goes back one step only. The alias ``previous`` is removed, so a second rollback is refused; otherwise it would
    bring back the model that was just taken out of service.

    Raises:
        RollbackRefused: there is no champion or no previous one, or the champion changed meanwhile.
    """
    champion, previous = by_alias(settings, CHAMPION), by_alias(settings, PREVIOUS)
    name = settings.registered_model
    if champion is None:
        raise RollbackRefused(f"rollback: model {name!r} has no champion at {settings.uri}: nothing was promoted yet")
    if previous is None:
        raise RollbackRefused(
            f"rollback: there is no previous champion of {name!r} to go back to: version {champion.version} is the"
            " first, or the last promotion was rolled back already; promote another version instead"
        )
    move = Move(kind="rollback", leaving=champion.version, version=previous.version, reason=reason)
    made = _move_champion(settings, store, move)
    if made is None or made.token != move.token:
        raise RollbackRefused(
            f"rollback: the champion has changed meanwhile ({made.words if made else 'by hand'}): look again"
        )
    return made
