"""The thirteen tasks of RULER: their settings (``synthetic.yaml``) and wordings (``constants.py``), Apache-2.0."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["niah", "variable_tracking", "common_words", "frequent_words", "qa"]
Haystack = Literal["noise", "essay", "needle"]
Values = Literal["words", "numbers", "uuids"]


@dataclass(frozen=True, kw_only=True)
class Wording:
    """How a family of tasks asks. Braces name what a task fills in."""

    before: str
    """Of the user's turn, before the text."""
    after: str
    answer_start: str
    """The first words of the answer, which the model continues."""
    new_tokens: int
    """Tokens kept free for the answer: a prompt of length L has at most L minus these."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One of the thirteen."""

    name: str
    family: Family
    haystack: Haystack = "noise"
    keys: Values = "words"
    values: Values = "numbers"
    num_keys: int = 1
    num_values: int = 1
    """Of each key."""
    num_queries: int = 1
    """Keys that are asked for."""
    dataset: str = ""
    """Of a question-answering task: the file that is read."""

    @property
    def needs(self) -> str:
        """The file of a copy that it is made from; empty if it is all synthetic."""
        return ESSAYS if self.family == "niah" and self.haystack == "essay" else self.dataset

    @property
    def scorer(self) -> str:
        """RULER's metric, by its name in :mod:`qwenlong_core.rewards.published`."""
        return "ruler-any" if self.family == "qa" else "ruler-all"


ESSAYS, SQUAD, HOTPOTQA = "PaulGrahamEssays.json", "squad.json", "hotpotqa.json"
"""The files that RULER's own download scripts write."""

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(name="niah_single_1", family="niah"),
        Task(name="niah_single_2", family="niah", haystack="essay"),
        Task(name="niah_single_3", family="niah", haystack="essay", values="uuids"),
        Task(name="niah_multikey_1", family="niah", haystack="essay", num_keys=4),
        Task(name="niah_multikey_2", family="niah", haystack="needle"),
        Task(name="niah_multikey_3", family="niah", haystack="needle", keys="uuids", values="uuids"),
        Task(name="niah_multivalue", family="niah", haystack="essay", num_values=4),
        Task(name="niah_multiquery", family="niah", haystack="essay", num_keys=4, num_queries=4),
        Task(name="vt", family="variable_tracking"),
        Task(name="cwe", family="common_words"),
        Task(name="fwe", family="frequent_words"),
        Task(name="qa_1", family="qa", dataset=SQUAD),
        Task(name="qa_2", family="qa", dataset=HOTPOTQA),
    )
}
"""In the order of RULER's tables."""

WORDINGS: dict[Family, Wording] = {
    "niah": Wording(
        before=(
            "Some special magic {values} are hidden within the following text. Make sure to memorize it. I will quiz"
            " you about the {values} afterwards.\n"
        ),
        after="\nWhat are all the special magic {values} for {query} mentioned in the provided text?",
        answer_start=" The special magic {values} for {query} mentioned in the provided text are",
        new_tokens=128,
    ),
    "variable_tracking": Wording(
        before="Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n",
        after="\nQuestion: Find all variables that are assigned the value {query} in the text above.",
        answer_start=(
            " Answer: According to the chain(s) of variable assignment in the text above, {count} variables are"
            " assigned the value {query}, they are: "
        ),
        new_tokens=30,
    ),
    "common_words": Wording(
        before=(
            "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones"
            " that appear most often.\n"
        ),
        after="\nQuestion: What are the 10 most common words in the above list?",
        answer_start=" Answer: The top 10 words that appear most often in the list are:",
        new_tokens=120,
    ),
    "frequent_words": Wording(
        before=(
            "Read the following coded text and track the frequency of each coded word. Find the three most frequently"
            " appeared coded words. "
        ),
        after=(
            "\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the three most"
            " frequently appeared words in the above coded text?"
        ),
        answer_start=" Answer: According to the coded text above, the three most frequently appeared words are:",
        new_tokens=50,
    ),
    "qa": Wording(
        before=(
            "Answer the question based on the given documents. Only give me the answer and do not output any other"
            " words.\n\nThe following are given documents.\n\n"
        ),
        after=(
            "\n\nAnswer the question based on the given documents. Only give me the answer and do not output any other"
            " words.\n\nQuestion: {query}"
        ),
        answer_start=" Answer:",
        new_tokens=32,
    ),
}
NOISE = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."


def is_ruler_source(source: str) -> bool:
    """Whether the rows of a source are RULER's; there is one source for each length, such as ``ruler-4K``."""
    return source.startswith("ruler-")


def label_of(length: int) -> str:
    """``4K`` for 4,096; other lengths in full."""
    return f"{length // 1024}K" if length % 1024 == 0 else str(length)


def tokens_of(label: str) -> int:
    """The inverse of :func:`label_of`."""
    return int(label.removesuffix("K")) * (1024 if label.endswith("K") else 1)
