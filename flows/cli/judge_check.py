"""``qwenlong judge-check``: how far the configured judges agree with comparisons whose verdict is known."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, one_clear_message, say
from qwenlong.tasks.judge import at, served
from qwenlong_core.records import Domain, Example
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.tree import Settings

if TYPE_CHECKING:
    from qwenlong_core.evaluation.agreement import Agreement, LabelledPair

_TOKENS = 400
"""Length of the generated documents. The judge sees only question and answers, so short documents are enough."""
_DOMAINS: tuple[Domain, ...] = ("math", "multihop", "reading")


def judge_check(
    profile: Profile = "local",
    overrides: Overrides = None,
    pairs: Annotated[int, typer.Option(min=8, help="Labelled comparisons to ask about, half of them equal.")] = 200,
    seed: Annotated[int, typer.Option(help="Same seed, same comparisons.")] = 7,
    as_json: Json = False,
) -> None:
    """Ask the profile's judges about answers whose right verdict is known.

    Prints Cohen's kappa with its interval and the confusion table. Exit code 1 if a judge gave no verdict at all, or
    too few right ones for a run to start with it.
    """
    with one_clear_message():
        found = _check_judges(load_settings(profile, overrides or ()), pairs, seed)
    typer.echo(json.dumps(found) if as_json else "\n".join(_in_words(name, one) for name, one in found.items()))
    if not all(one["usable"] for one in found.values()):
        raise typer.Exit(1)


def _generated(rows: int, seed: int) -> Iterator[Example]:
    from qwenlong_core.bundled import bundled_tokenizer
    from qwenlong_core.data.synthesis.generate import generate

    tokenizer = bundled_tokenizer()
    for index in range(rows):
        domain = _DOMAINS[index % len(_DOMAINS)]
        yield generate(tokenizer, domain=domain, tokens=_TOKENS, seed=f"judge/{seed}/{index}").example


def labelled_slice(limit: int, seed: int) -> list[LabelledPair]:
    """``limit`` comparisons with known verdicts, made from generated questions; same seed, same comparisons."""
    from qwenlong_core.evaluation.agreement import labelled_pairs

    # A question gives at least one equal pair if its gold answer can be restated, and nearly all can be.
    return labelled_pairs(list(_generated(limit * 3 // 4, seed)), limit, seed)


def _judges_of(settings: Settings) -> dict[str, JudgeSettings]:
    """The judges of the settings, by setting; two with the same endpoint and model count once.

    Raises:
        ValueError: the settings have no judge.
    """
    named = {"rewards.judge": settings.rewards.judge, "evaluation.judge": settings.evaluation.judge}
    judges: dict[str, JudgeSettings] = {}
    for name, judge in named.items():
        if judge is not None and (judge.base_url, judge.model) not in {(j.base_url, j.model) for j in judges.values()}:
            judges[name] = judge
    if not judges:
        raise ValueError(
            f"profile {settings.profile!r} has no judge to check: give one with --set evaluation.judge.base_url=URL "
            "and --set evaluation.judge.model=NAME"
        )
    return judges


def _agreement(settings: Settings, judge: JudgeSettings, pairs: list[LabelledPair]) -> tuple[JudgeSettings, Agreement]:
    """The judge with its address, and how far it agrees; one of ``judge.serve`` is started for the check."""
    log = Path(settings.storage.runs_dir) / "judge-check.log"
    with served(judge, settings.launch, log, say) as service:
        return (running := at(service, judge)), asyncio.run(_ask(running, pairs))


async def _ask(settings: JudgeSettings, pairs: list[LabelledPair]) -> Agreement:
    from qwenlong_core.evaluation.agreement import judge_agreement
    from qwenlong_core.rewards.judge import Judge

    # Without the cache: the check is about what the endpoint says now.
    judge = Judge(settings.model_copy(update={"cache_dir": None}))
    try:
        return await judge_agreement(judge, pairs)
    finally:
        await judge.close()


def _check_judges(settings: Settings, limit: int, seed: int) -> dict[str, dict[str, Any]]:
    """How far each judge of the settings agrees with the labels, by setting."""
    judges, pairs = _judges_of(settings), labelled_slice(limit, seed)
    checked = {name: _agreement(settings, judge, pairs) for name, judge in judges.items()}
    return {name: _facts(judge, found) for name, (judge, found) in checked.items()}


def _facts(judge: JudgeSettings, found: Agreement) -> dict[str, Any]:
    from qwenlong_core.rewards.health import MIN_AGREEMENT

    usable = found.right_share is not None and found.right_share >= MIN_AGREEMENT
    verdict = {"usable": usable, "right_share": found.right_share, "needed_share": MIN_AGREEMENT}
    return {"model": judge.model, "base_url": judge.base_url} | verdict | asdict(found)


def _verdict(found: dict[str, Any]) -> str:
    shares = f"{found['right_share']:.0%} right, and a run asks for {found['needed_share']:.0%}"
    return f"  usable: {shares}" if found["usable"] else f"  not usable: {shares}; take a better judge"


def _in_words(name: str, found: dict[str, Any]) -> str:
    """Kappa with its interval, the confusion table, and the share right of each kind of pair."""
    head = f"{name}: {found['model']} at {found['base_url']}"
    if found["kappa"] is None:
        return f"{head}\n  no verdict on any of {found['pairs']} pairs; the last error: {found['last_error']}"
    c = found["confusion"]
    lines = [
        head,
        (
            f"  kappa {found['kappa']:.3f} [{found['low']:.3f}, {found['high']:.3f}] over"
            f" {found['pairs'] - found['no_verdict']} labelled pairs; {found['no_verdict']} without a verdict"
        ),
        "                    is equal  is different",
        f"  said equal        {c['said equal, is equal']:8d}  {c['said equal, is different']:12d}",
        f"  said different    {c['said different, is equal']:8d}  {c['said different, is different']:12d}",
    ]
    return "\n".join(
        [
            *lines,
            *(f"  {kind:<16} {right} of {given} right" for kind, (right, given) in found["by_kind"].items()),
            _verdict(found),
        ]
    )
