"""DocQA-RL-1.6K: a parquet file in verl's layout, one prompt per row.

The column ``data_source`` gives domain and answer type: ``long_toc_choices_*`` is multiple choice, ``docmath_*``
has numbers, ``musique_*`` and ``multihoprag_*`` are multi-hop. The prompt's user turn holds document, question and
options. ``reward_model.ground_truth`` holds the gold answer inside a phrase.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.validation import (
    BadRow,
    check_choice,
    check_text,
    half_width,
    row_id,
    texts,
)
from qwenlong_core.records import Domain, Example
from qwenlong_core.rewards.infer import infer_answer_type

_COLUMNS = ("data_source", "prompt", "reward_model")
_DOMAINS: dict[str, Domain] = {
    "long_toc_choices": "logical",
    "docmath": "math",
    "multihoprag": "multihop",
    "musique": "multihop",
}
_FORMAT = re.compile(
    r"\n*\s*(?:Format your (?:response|answer) as follows|请(?:按照?|用|以)[^\n]{0,20}格式).*$", re.DOTALL
)
_PHRASE = re.compile(
    r"^.*?(?:\b(?:the correct answer is|the answer is)|答案(?:应当?|应该)?[是为]|答案(?=\s*[:：]))\s*[:：]?\s*",
    re.IGNORECASE | re.DOTALL,
)
_MARK = r"[(（]?([A-HＡ-Ｈ])[)）.:：、．]\s*(?=\S)"
_OPTION = re.compile(rf"^\s*{_MARK}", re.MULTILINE)
_OPTION_IN_LINE = re.compile(rf"(?:^|(?<=[\s;；]))\s*{_MARK}", re.MULTILINE)
"""Options that follow each other in one line, as Chinese exams print them."""
_CHOICES_HEADING = re.compile(r"\n\s*(choices|options|选项)\s*[:：]?\s*$", re.IGNORECASE)


def parse(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """The example of one verl row.

    Raises:
        BadRow: with the reason.
    """
    if missing := [column for column in _COLUMNS if column not in row]:
        raise BadRow(f"no column {', '.join(missing)}; found {', '.join(row)}")
    data_source = str(row["data_source"])
    domain = next((d for key, d in _DOMAINS.items() if key in data_source), None)
    if domain is None:
        raise BadRow(f"'data_source' is {data_source!r}: none of {', '.join(_DOMAINS)}")
    context, question = _document_and_question(row["prompt"])
    choices: tuple[str, ...] = ()
    answers = tuple(_bare(answer) for answer in texts(_ground_truth(row["reward_model"]), "ground_truth"))
    if domain == "logical":
        question, choices = _options(question)
        answers = check_choice(answers, choices)
    if not all(answers):
        raise BadRow("'ground_truth' is empty")
    index = (row.get("extra_info") or {}).get("index")
    name = row_id(row if index is None else {"index": index}, "index")
    yield Example(
        id=f"docqa-rl-{name}",
        source="docqa-rl",
        domain=domain,
        answer_type=infer_answer_type(domain, answers, choices),
        context=context,
        question=question,
        answers=answers,
        choices=choices,
        metadata={"data_source": data_source},
    )


def _document_and_question(prompt: Any) -> tuple[str, str]:
    turns = [turn for turn in prompt or [] if turn.get("role") == "user"] if isinstance(prompt, list) else []
    if not turns or not isinstance(turns[-1].get("content"), str):
        raise BadRow("'prompt' has no user turn with text")
    content: str = turns[-1]["content"]
    check_text(content, "prompt")
    start, end = content.find("<text>"), content.rfind("</text>")
    if start < 0 or end < start:
        raise BadRow("'prompt' has no <text>...</text>")
    context = content[start + len("<text>") : end].strip("\n")
    question = _FORMAT.sub("", content[end + len("</text>") :]).strip()
    if not context.strip() or not question:
        raise BadRow("'prompt' has an empty document or question")
    return context, question


def _ground_truth(reward_model: Any) -> Any:
    if not isinstance(reward_model, dict) or reward_model.get("ground_truth") is None:
        raise BadRow("'reward_model' has no ground_truth")
    return reward_model["ground_truth"]


def _bare(answer: str) -> str:
    """The answer without its phrase: ``5`` for ``Therefore, the answer is 5.`` and for ``因此，答案是5。``"""
    match = _PHRASE.match(answer)
    if not match:
        return answer.strip()
    return re.sub(r"[.。．]\s*$", "", answer[match.end() :].strip()).strip()


def _options(question: str) -> tuple[str, tuple[str, ...]]:
    """The question without its options, and the options: the last run of A, B, C, ... in the text."""
    run = _run(_OPTION, question) or _run(_OPTION_IN_LINE, question)
    if not run:
        raise BadRow("no options A, B, ... found after the document")
    stem = _CHOICES_HEADING.sub("", question[: run[0].start()].rstrip()).rstrip()
    if not stem:
        raise BadRow("no question before the options")
    ends = [*(match.start() for match in run[1:]), len(question)]
    options = tuple(question[match.end() : end].strip() for match, end in zip(run, ends, strict=True))
    if not all(options):
        raise BadRow("an option is empty")
    return stem, options


def _run(mark: re.Pattern[str], question: str) -> list[re.Match[str]]:
    """The marks of the last options A, B, C, ... in the text; empty if there are none in this order."""
    found = list(mark.finditer(question))
    letters = "".join(half_width(match[1]) for match in found)
    start = letters.rfind("A")
    in_order = start >= 0 and len(letters) - start >= 2 and "ABCDEFGH".startswith(letters[start:])
    return found[start:] if in_order else []
