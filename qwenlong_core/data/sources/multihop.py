"""HotpotQA, 2WikiMultihopQA, MuSiQue and MultiHop-RAG in their own layouts.

Each passage of the document follows its number and title, as in LongBench.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from qwenlong_core.data.sources.files import records
from qwenlong_core.data.sources.validation import BadRow, row_id, text_field, texts
from qwenlong_core.records import Example
from qwenlong_core.rewards.infer import infer_answer_type

_UNANSWERABLE = "unanswerable"
_OTHER_ARTICLES = 6
"""Articles added to the evidence of a MultiHop-RAG question if the corpus is available."""


def _passages(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n\n".join(f"Passage {number}:\n{title}\n{text}" for number, (title, text) in enumerate(pairs, 1))


def _places(pairs: Iterable[tuple[str, str]], wanted: Collection[int]) -> list[list[int]] | None:
    """Where the passages with these numbers, counted from 0, stand in :func:`_passages`; ``None`` without any."""
    spans, start = [], 0
    for number, pair in enumerate(pairs):
        length = len(_passages([pair])) + len(str(number + 1)) - 1
        if number in wanted:
            spans.append([start, start + length])
        start += length + len("\n\n")
    return spans or None


def _supporting(row: dict[str, Any], pairs: Sequence[tuple[str, str]]) -> list[list[int]] | None:
    """The passages of ``supporting_facts``: ``[[title, sentence]]`` (original) or ``{title, sent_id}`` (hub)."""
    facts = row.get("supporting_facts") or ()
    try:
        facts = json.loads(facts) if isinstance(facts, str) else facts
        titles = set(facts.get("title") or () if isinstance(facts, dict) else (fact[0] for fact in facts))
    except (ValueError, TypeError, IndexError, KeyError) as error:
        raise BadRow(f"'supporting_facts' is not a list of [title, sentence]: {error}") from error
    return _places(pairs, {number for number, (title, _) in enumerate(pairs) if title in titles})


def _example(
    source: str, row_id: str, context: str, question: str, answers: tuple[str, ...], **metadata: Any
) -> Example:
    if not context.strip():
        raise BadRow("the document is empty")
    return Example(
        id=f"{source}-{row_id}",
        source=source,
        domain="multihop",
        answer_type=infer_answer_type("multihop", answers, ()),
        context=context,
        question=question,
        answers=answers,
        metadata={key: value for key, value in metadata.items() if value is not None},
    )


def _titled_sentences(value: Any) -> list[tuple[str, str]]:
    """``[[title, [sentence]]]`` (original), the same as a JSON string, or ``{title, sentences}`` (hub)."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(f"'context' is a text but not valid JSON: {error.msg}") from error
    if isinstance(value, dict):
        value = list(zip(value.get("title") or (), value.get("sentences") or (), strict=False))
    if not isinstance(value, list) or not value:
        raise BadRow("'context' holds no [title, sentences] pairs")
    try:
        return [(str(title), "".join(sentences)) for title, sentences in value]
    except (TypeError, ValueError) as error:
        raise BadRow(f"'context' is not a list of [title, sentences]: {error}") from error


def _wikipedia(source: str, row: dict[str, Any]) -> Example:
    pairs = _titled_sentences(row.get("context"))
    return _example(
        source,
        row_id(row, "_id", "id"),
        _passages(pairs),
        text_field(row, "question"),
        texts(row.get("answer"), "answer"),
        type=row.get("type"),
        level=row.get("level"),
        evidence=_supporting(row, pairs),
    )


def parse_hotpotqa(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Original JSON (``_id``, ``[[title, sentences]]``) and hub layout (``id``, ``{title, sentences}``)."""
    yield _wikipedia("hotpotqa", row)


def parse_2wiki(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Original JSON, and copies that store ``context`` as a JSON string.

    The scorer's aliases and demonyms of an answer come from ``id_aliases.json``, if it lies beside the file.
    """
    example = _wikipedia("2wikimultihopqa", row)
    aliases = _wiki_aliases(path.parent / "id_aliases.json").get(str(row.get("answer_id")), [])
    metadata = {**example.metadata, "aliases": aliases} if aliases else example.metadata
    yield replace(example, metadata=metadata)


@functools.lru_cache(maxsize=2)
def _wiki_aliases(file: Path) -> dict[str, list[str]]:
    """The other names of a Wikidata id, from JSON lines with ``Q_id``, ``aliases`` and ``demonyms``."""
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines if line.strip()]
        return {row["Q_id"]: [*row["aliases"], *row["demonyms"]] for row in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{file} is not 2WikiMultihopQA's file of aliases ({error!r}): restore or remove it"
        ) from error


def parse_musique(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """MuSiQue-Ans and MuSiQue-Full. Aliases are gold answers too; unanswerable rows have a gold that says so."""
    paragraphs = row.get("paragraphs")
    if not isinstance(paragraphs, list) or not paragraphs:
        raise BadRow("no 'paragraphs'")
    try:
        pairs = [(str(paragraph["title"]), str(paragraph["paragraph_text"])) for paragraph in paragraphs]
    except (TypeError, KeyError) as error:
        raise BadRow(f"a paragraph without title or paragraph_text: {error}") from error
    if row.get("answerable", True):
        aliases = texts(row["answer_aliases"], "answer_aliases") if row.get("answer_aliases") else ()
        answers = tuple(dict.fromkeys((*texts(row.get("answer"), "answer"), *aliases)))
    else:
        answers = (_UNANSWERABLE,)
    steps = row.get("question_decomposition") or ()
    answerable = row.get("answerable", True)
    proof = {i for i, paragraph in enumerate(paragraphs) if answerable and paragraph.get("is_supporting")}
    yield _example(
        "musique",
        row_id(row, "id"),
        _passages(pairs),
        text_field(row, "question"),
        answers,
        hops=len(steps) or None,
        evidence=_places(pairs, proof),
        entities=[str(step["answer"]) for step in steps if answerable and step.get("answer")] or None,
    )


@functools.lru_cache(maxsize=2)
def _corpus(folder: Path) -> dict[str, str]:
    """Article texts by title; empty if there is no corpus beside the questions."""
    path = next((folder / name for name in ("corpus.json", "corpus.jsonl") if (folder / name).is_file()), None)
    if path is None:
        return {}
    rows = []
    for number, row in records(path):
        if isinstance(row, str):
            raise BadRow(f"{path}:{number}: {row}")
        rows.append(row)
    return {str(row.get("title")): str(row.get("body") or "") for row in rows if row.get("body")}


def parse_multihoprag(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """The document is the evidence articles among others if ``corpus.json`` is there, else the evidence sentences."""
    if "body" in row and "query" not in row:
        return  # a row of corpus.json, which is read too if the source is a folder
    question, answers = text_field(row, "query"), texts(row.get("answer"), "answer")
    evidence = [item for item in row.get("evidence_list") or [] if isinstance(item, dict)]
    corpus = _corpus(path.parent)
    if corpus:
        # Seeded by the question: which articles are added does not depend on the other rows.
        rng = Random(question)
        wanted = list(dict.fromkeys(str(item.get("title")) for item in evidence))
        if missing := [title for title in wanted if title not in corpus]:
            raise BadRow(f"corpus.json has no article {missing[0]!r}")
        others = rng.sample(sorted(set(corpus) - set(wanted)), min(_OTHER_ARTICLES, len(corpus) - len(wanted)))
        titles = [*wanted, *others]
        rng.shuffle(titles)
        context = _passages((title, corpus[title]) for title in titles)
    elif evidence:
        context = _passages((_source_lines(item), str(item.get("fact") or "")) for item in evidence)
    else:
        raise BadRow("no evidence and no corpus: put corpus.json of yixuantt/MultiHopRAG beside the file")
    yield _example(
        "multihoprag",
        row_id(row),
        context,
        question,
        answers,
        question_type=row.get("question_type"),
        with_corpus=bool(corpus),
    )


def _source_lines(item: dict[str, Any]) -> str:
    """Title, publisher and date, which the questions refer to."""
    return "\n".join(f"{key}: {item[key]}" for key in ("title", "source", "published_at") if item.get(key))
