"""``qwenlong runs``: the newest pipelines, promotions and nights, with what became of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, busy, console, one_clear_message, table
from qwenlong_core.settings.profiles import load_settings

if TYPE_CHECKING:
    from qwenlong.tasks.tracking.listing import Listed


def runs(
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="How many, the newest first.")] = 10,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """List the newest runs in the profile's MLflow: when, how long, the scores, and what was decided."""
    with one_clear_message(), busy("reading MLflow"):
        tracking = load_settings(profile, overrides or ()).tracking  # a wrong one is refused before MLflow is loaded

        from qwenlong.tasks.tracking.listing import newest_runs

        found = newest_runs(tracking, limit)
    if as_json:
        typer.echo(json.dumps([one._asdict() | {"began": one.began.isoformat()} for one in found]))
    elif not found:
        typer.echo(f"No run is tracked in {tracking.uri} yet: start one with `qwenlong run --profile {profile}`.")
    else:
        console(width=160).print(table(f"Runs in {tracking.uri}", [_row(one) for one in found]))


def _row(one: Listed) -> dict[str, str]:
    return {
        "began": one.began.astimezone().strftime("%Y-%m-%d %H:%M"),
        "run": one.name,
        "state": one.status.lower(),
        "minutes": "" if one.seconds is None else f"{one.seconds / 60:.1f}",
        "right": _from_to([*one.scores.values()]),
        "outcome": one.outcome,
    }


def _from_to(scores: list[float]) -> str:
    """The first and the last evaluation's score: before and after the training."""
    return " to ".join(f"{score:.2f}" for score in (scores[:1] + scores[1:][-1:]))
