"""``qwenlong judge-check``: does the configured judge judge as the labels say?"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from qwenlong_core.evaluation.agreement import Agreement, LabelledPair, judge_agreement, labelled_pairs
from qwenlong_core.records import Domain, Example
from qwenlong_core.rewards.judge import Judge
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.tree import Settings

_TOKENS = 400
"""Length of the generated documents: the judge sees question and answers alone, so short ones will do."""
_DOMAINS: tuple[Domain, ...] = ("math", "multihop", "reading")


def _generated(rows: int, seed: int) -> Iterator[Example]:
    from qwenlong_core.bundled import bundled_tokenizer
    from qwenlong_core.data.synthesis.generate import generate

    tokenizer = bundled_tokenizer()
    for index in range(rows):
        domain = _DOMAINS[index % len(_DOMAINS)]
        yield generate(tokenizer, domain=domain, tokens=_TOKENS, seed=f"judge/{seed}/{index}").example


def labelled_slice(limit: int, seed: int) -> list[LabelledPair]:
    """``limit`` comparisons with known verdicts, from generated questions; same seed, same slice."""
    # A question gives at least one equal pair where its gold can be restated, which nearly all can.
    return labelled_pairs(list(_generated(limit * 3 // 4, seed)), limit, seed)


def judges_of(settings: Settings) -> dict[str, JudgeSettings]:
    """The judges that the settings name; one endpoint and model once.

    Raises:
        ValueError: they name none.
    """
    named = {"rewards.judge": settings.rewards.judge, "evaluation.judge": settings.evaluation.judge}
    judges: dict[str, JudgeSettings] = {}
    for name, judge in named.items():
        if judge is not None and (judge.base_url, judge.model) not in {(j.base_url, j.model) for j in judges.values()}:
            judges[name] = judge
    if not judges:
        raise ValueError(
            f"profile {settings.profile!r} has no judge to check: give one with --set evaluation.judge.base_url=URL "
            "--set evaluation.judge.model=NAME"
        )
    return judges


async def _ask(settings: JudgeSettings, pairs: list[LabelledPair]) -> Agreement:
    # A verdict from the cache would not show what the endpoint says today.
    judge = Judge(settings.model_copy(update={"cache_dir": None}))
    try:
        return await judge_agreement(judge, pairs)
    finally:
        await judge.close()


def check_judges(settings: Settings, limit: int, seed: int) -> dict[str, dict[str, Any]]:
    """Agreement with the labels of each judge of the settings, by setting."""
    judges, pairs = judges_of(settings), labelled_slice(limit, seed)
    checked = {name: (judge, asyncio.run(_ask(judge, pairs))) for name, judge in judges.items()}
    return {
        name: {"model": judge.model, "base_url": judge.base_url} | asdict(found)
        for name, (judge, found) in checked.items()
    }


def in_words(name: str, found: dict[str, Any]) -> str:
    """Kappa with its interval, the confusion table and the kinds of pairs, for a console."""
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
        [*lines, *(f"  {kind:<16} {right} of {given} right" for kind, (right, given) in found["by_kind"].items())]
    )
