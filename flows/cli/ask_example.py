"""``qwenlong ask --example``: one of the two case studies, its document on disk, and whether the answer is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from qwenlong.flows.cli.common import say
from qwenlong_core.data.synthesis.cases import CASES, longest_that_fits
from qwenlong_core.records import Example
from qwenlong_core.rewards.hybrid import score_text

FOLDER = Path(".qwenlong/examples")


def check_example(name: str, document: Path | None, question: str | None) -> None:
    """Refuse a name that is no example, and a document or question beside it."""
    if name not in CASES:
        raise ValueError(f"--example {name}: there is none of this name, use {' or '.join(CASES)}")
    if document is not None or question is not None:
        raise ValueError(f"--example {name} has its own document and question: leave out --document and --question")


def write_example(name: str, form: str, tokenizer: Any, max_tokens: int) -> Example:
    """Write the example's document, the full one where the model can read it, and say where it is and what is asked.

    Raises:
        ValueError: not even the short document fits.
    """
    row = longest_that_fits(tokenizer, name, max_tokens, form)
    if row is None:
        raise ValueError(
            f"--example {name}: its prompt is longer than the {max_tokens:,} tokens that this model can read, even "
            "with the short report: lower --max-tokens, or name another model"
        )
    full = row.metadata["version"] == "full"
    path = FOLDER / f"{name}{'' if full else '-short'}.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(row.context, encoding="utf-8")
    why = "" if full else f" (short, as the full report does not fit into {max_tokens:,} tokens)"
    say(f"document: {path}{why}")
    say(f"question: {row.question}")
    return row


def say_outcome(row: Example, answer: str, cut: bool, number_tolerance: float) -> None:
    """Say whether the answer is right, by the rule that also scores evaluations."""
    score = score_text(row, answer, number_tolerance, truncated=cut).score
    verdict = "right" if score.rule == 1.0 else "wrong" if score.extracted is not None else "no answer"
    say(f"{verdict} ({score.reason}); the right answer is {row.answers[0]}")
