"""Check before a run that the judge can be reached and judges sensibly."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.rewards.judge import Judge, JudgeQuestion

PAIRS: tuple[tuple[str, str, str, bool], ...] = (
    ("Who discovered radium?", "Marie Curie", "Madame Marie Skłodowska Curie", True),
    ("Which city hosts the Louvre?", "Paris", "The French capital, Paris", True),
    ("Who wrote Hamlet?", "William Shakespeare", "Shakespeare", True),
    ("Where is the headquarters?", "New York City", "NYC", True),
    ("How long is the lease?", "twelve months", "one year", True),
    ("When does the agreement end?", "31 December 2021", "December 31st, 2021", True),
    ("Who discovered radium?", "Marie Curie", "Pierre Curie", False),
    ("Which city hosts the Louvre?", "Paris", "London", False),
    ("Who wrote Hamlet?", "William Shakespeare", "Christopher Marlowe", False),
    ("When does the agreement end?", "31 December 2021", "31 December 2012", False),
    ("How long is the lease?", "twelve months", "twelve years", False),
    ("Which party may terminate?", "the Lessee", "the Lessor", False),
)
"""Question, reference, answer, and whether they are equal: six pairs in other words, and six near misses of the same
form."""

MIN_AGREEMENT = 0.75
"""Least share of known verdicts that a judge must give. One that says the same to everything gives half of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeHealth:
    """How a judge did on the fixed pairs."""

    reachable: bool
    """Whether at least one verdict came back."""
    agreement: float
    """Share of the pairs judged as a person would; a missing verdict counts as disagreement."""
    disagreements: tuple[str, ...]
    """A description of each pair that was judged differently or not at all."""
    last_error: str | None = None
    """The endpoint's last error, if it failed."""
    pairs: int = len(PAIRS)


async def check_judge(judge: Judge) -> JudgeHealth:
    """Ask the judge about a dozen fixed pairs, six equal and six different.

    The pairs are asked by a separate client without the cache: a stored verdict would say nothing about the judge that
    is running now.
    """
    questions = [JudgeQuestion(question=q, golds=(gold,), answer=answer) for q, gold, answer, _ in PAIRS]
    fresh = Judge(judge.settings.model_copy(update={"cache_dir": None}))
    try:
        verdicts = await fresh.verdicts(questions)
    finally:
        await fresh.close()
    disagreements = tuple(
        f"{gold!r} against {answer!r}: "
        + (verdict.error if verdict.equal is None else f"said {'equal' if verdict.equal else 'different'}")
        for (_, gold, answer, equal), verdict in zip(PAIRS, verdicts)
        if verdict.equal is not equal
    )
    return JudgeHealth(
        reachable=any(verdict.equal is not None for verdict in verdicts),
        last_error=fresh.last_error,
        agreement=1 - len(disagreements) / len(PAIRS),
        disagreements=disagreements,
    )


async def require_judge(judge: Judge, min_agreement: float = MIN_AGREEMENT) -> JudgeHealth:
    """:func:`check_judge`, refusing a judge that a run cannot rely on.

    Raises:
        RuntimeError: the endpoint gives no verdict, or agrees on less than ``min_agreement`` of the pairs.
    """
    health = await check_judge(judge)
    if not health.reachable:
        raise RuntimeError(
            f"judge {judge.settings.model!r} at {judge.settings.base_url} gave no verdict: {health.last_error}. "
            "Start it or correct rewards.judge before the run"
        )
    if health.agreement < min_agreement:
        raise RuntimeError(
            f"judge {judge.settings.model!r} agrees on {health.agreement:.0%} of {health.pairs} fixed pairs < "
            f"{min_agreement:.0%}: {'; '.join(health.disagreements)}. Use a better judge"
        )
    return health
