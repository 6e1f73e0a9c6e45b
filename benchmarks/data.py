"""Generated documents: how fast they are written, and the reward of guessing without reading them.

    python benchmarks/data.py            both parts
    python benchmarks/data.py speed      tokens a minute on one core, and memory, by length
    python benchmarks/data.py guess      blind guessers by domain, against chance

Guessers see the question and its options but never the document. They know the most frequent gold answers of a disjoint
training set. Chance is what the form of the question alone gives: one in four for options, one in two for yes/no
questions, nothing for numbers and names.
"""

from __future__ import annotations

import json
import os
import re
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # one core


from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.prompts import answer_form
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.records import Completion, Domain, Example
from qwenlong_core.rewards.hybrid import score_by_rule
from qwenlong_core.settings.rewards import RewardSettings

DOMAINS: tuple[Domain, ...] = ("math", "logical", "multihop", "reading")
LENGTHS = {256: 400, 1_024: 200, 8_192: 40, 32_768: 12, 131_072: 4}
GUESS_ROWS, GUESS_TOKENS = 600, 512

Guesser = Callable[[Example], str]


def peak_megabytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def speed(tokenizer: Any) -> list[dict[str, Any]]:
    """Tokens per minute over all domains; lengths ascend, so that peak memory shows how it grows."""
    rows = []
    for tokens, count in LENGTHS.items():
        start, cpu, written = time.perf_counter(), time.process_time(), 0
        for index in range(count):
            domain = DOMAINS[index % len(DOMAINS)]
            written += generate(tokenizer, domain=domain, tokens=tokens, seed=index).example.num_tokens or 0
        half = peak_megabytes()
        for index in range(count):
            domain = DOMAINS[index % len(DOMAINS)]
            written += generate(tokenizer, domain=domain, tokens=tokens, seed=count + index).example.num_tokens or 0
        seconds = time.perf_counter() - start
        row = {
            "tokens": tokens,
            "documents": 2 * count,
            "million_tokens_per_minute": round(written / seconds * 60 / 1e6, 1),
            "cores_used": round((time.process_time() - cpu) / seconds, 2),
            "peak_mb": round(peak_megabytes()),
            "peak_mb_growth_over_second_half": round(peak_megabytes() - half, 1),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def gold_text(example: Example) -> str:
    return example.choices["ABCD".index(example.answers[0])] if example.choices else example.answers[0]


def guessers(train: list[Example]) -> dict[str, Guesser]:
    """Blind strategies; each returns the text of its answer (a letter for options)."""
    golds = Counter(gold_text(row) for row in train)
    letters = Counter(row.answers[0] for row in train if row.choices)
    by_form: dict[str, Counter[str]] = defaultdict(Counter)
    for row in train:
        by_form[_form(row.question)][gold_text(row)] += 1
    constant = golds.most_common(1)[0][0]

    def option(pick: Callable[[tuple[str, ...]], int], otherwise: str = constant) -> Guesser:
        return lambda row: "ABCD"[pick(row.choices)] if row.choices else otherwise

    def first_number(row: Example) -> str:
        found = re.search(r"\d[\d,.]*\d|\d", row.question)
        return found[0] if found else constant

    def best_of_form(row: Example) -> str:
        """The most frequent answer to questions with the same words, ignoring names and numbers."""
        seen = by_form.get(_form(row.question), golds)
        if row.choices:
            return "ABCD"[max(range(4), key=lambda i: seen[row.choices[i]])]
        return seen.most_common(1)[0][0]

    return {
        "most frequent answer": option(lambda _: "ABCD".index(letters.most_common(1)[0][0])),
        "most frequent option text": option(lambda options: max(range(4), key=lambda i: golds[options[i]])),
        "longest option": option(lambda options: max(range(4), key=lambda i: len(options[i]))),
        "shortest option": option(lambda options: min(range(4), key=lambda i: len(options[i]))),
        "first number in the question": first_number,
        "always yes": lambda row: "yes",
        "always unanswerable": lambda row: "unanswerable",
        "most frequent answer to such a question": best_of_form,
    }


def _form(question: str) -> str:
    return re.sub(r"\b[A-Z][\w-]*|\d[\d,.]*", "_", question[0].lower() + question[1:])


def earns(guess: Guesser, rows: list[Example]) -> float:
    total = 0.0
    for row in rows:
        text = f"<think>?</think>\n\n{answer_form(row.answer_type, guess(row))}"
        total += (
            score_by_rule(row, Completion(text=text, token_ids=(), finish_reason="stop"), RewardSettings()).score.rule
            or 0
        )
    return total / len(rows)


def chance(rows: list[Example]) -> float:
    worth = {"choice": 0.25, "yes_no": 0.5}
    return sum(worth.get(row.answer_type, 0.0) for row in rows) / len(rows)


def guess(tokenizer: Any) -> dict[str, Any]:
    """Scores of the blind guessers by domain on held-out rows."""
    table: dict[str, Any] = {}
    for domain in DOMAINS:
        rows = [
            generate(tokenizer, domain=domain, tokens=GUESS_TOKENS, seed=f"guess-{index}").example
            for index in range(3 * GUESS_ROWS)
        ]
        train, held_out = rows[: 2 * GUESS_ROWS], rows[2 * GUESS_ROWS :]
        scores = {name: round(earns(guesser, held_out), 3) for name, guesser in guessers(train).items()}
        types = Counter(row.answer_type for row in held_out)
        table[domain] = {
            "chance": round(chance(held_out), 3),
            "rows": len(held_out),
            "answer_types": dict(types),
            **scores,
        }
        print(domain, json.dumps(table[domain], indent=2), flush=True)
    return table


def main(parts: list[str]) -> None:
    tokenizer = bundled_tokenizer()
    if not parts or "speed" in parts:
        speed(tokenizer)
    if not parts or "guess" in parts:
        guess(tokenizer)


if __name__ == "__main__":
    main(sys.argv[1:])
