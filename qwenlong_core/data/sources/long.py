"""MRCR, AA-LCR and CorpusQA in their own layouts, asked in their own words."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import unicodedata
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from qwenlong_core.data.sources.validation import BadRow, row_id, text_field, texts
from qwenlong_core.data.wordings import Turn, conversation, frame
from qwenlong_core.records import Example

AA_LCR_ARCHIVE = "extracted_text/AA-LCR_extracted-text.zip"
_AA_LCR_AFTER = (
    "\n\nEND INPUT DOCUMENTS\n\nAnswer the following question using the input documents provided above.\n\n"
    "START QUESTION\n\n{question}\n\nEND QUESTION\n"
)
_QUESTION_HEADING = re.compile(r"^# (?:Question|问题)\s*[:：]", re.MULTILINE)
_ROLES = ("system", "user", "assistant")


def parse_mrcr(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """A conversation that asks for one of its own messages again; one source for each number of needles."""
    turns = _turns(row.get("prompt"))
    answer, prefix = text_field(row, "answer"), text_field(row, "random_string_to_prepend")
    if not answer.startswith(prefix):
        raise BadRow("'answer' does not begin with 'random_string_to_prepend'")
    needles = row.get("n_needles")
    if not isinstance(needles, int) or needles < 1:
        raise BadRow(f"'n_needles' is {needles!r}, not a number of messages")
    if len(turns) < 2 or turns[-1]["role"] != "user":
        raise BadRow("'prompt' does not end in a user's question after a conversation")
    yield Example(
        id=f"mrcr-{needles}needle-{row_id(row)}",
        source=f"mrcr-{needles}needle",
        domain="reading",
        answer_type="published",
        context=conversation(turns[:-1]),
        question=turns[-1]["content"],
        answers=(answer,),
        metadata={
            "scorer": "mrcr",
            "prefix": prefix,
            "turns": True,
            **{key: row.get(key) for key in ("desired_msg_index", "total_messages", "n_chars", "date_added")},
        },
    )


def parse_aa_lcr(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """A question with the texts of its documents, in the order that the row names them.

    They are read from the archive beside the questions, or from what was unpacked from it.
    """
    category, document_set = text_field(row, "document_category"), text_field(row, "document_set_id")
    names = [name.strip() for name in text_field(row, "data_source_filenames").split(";") if name.strip()]
    folder = f"lcr/{category.replace(' ', '_')}/{document_set}"
    found = [_aa_lcr_text(path.parent, f"{folder}/{name}") for name in names]
    question = text_field(row, "question")
    yield Example(
        id=f"aa-lcr-{row_id(row, 'question_id')}",
        source="aa-lcr",
        domain="reading",
        answer_type="published",
        context="\n\n".join(f"BEGIN DOCUMENT {i}:\n{text}\nEND DOCUMENT {i}" for i, text in enumerate(found, 1)),
        question=question,
        answers=texts([text_field(row, "answer")], "answer"),
        document_id=f"aa-lcr-{document_set}",
        metadata={
            "scorer": "aa-lcr",
            "parts": [category],
            **frame("BEGIN INPUT DOCUMENTS\n\n", _AA_LCR_AFTER.format(question=question)),
        },
    )


def parse_corpusqa(row: dict[str, Any], path: Path, number: int) -> Iterator[Example]:
    """Documents and question as the released chat holds them; the gold is its answer as Python writes it."""
    turns = _turns(row.get("prompt"))
    *before, last = turns
    if last["role"] != "user" or any(turn["role"] != "system" for turn in before) or len(before) > 1:
        raise BadRow("'prompt' is not a user's turn, after a system's at most")
    if "answer" not in row or row["answer"] in (None, ""):
        raise BadRow("no 'answer'")
    heading = next(reversed(list(_QUESTION_HEADING.finditer(last["content"]))), None)
    cut = heading.start() if heading else len(last["content"])
    name = row_id(row, "id")
    yield Example(
        id=f"corpusqa-{name}",
        source="corpusqa",
        domain="reading",
        answer_type="published",
        context=last["content"][:cut],
        question=text_field(row, "question"),
        answers=(str(row["answer"]),),  # "[]" too: no document fits the question
        metadata={
            "scorer": "corpusqa",
            "parts": [str(row.get("domain") or re.sub(r"[_-]?\d+$", "", name))],
            **({"system": before[0]["content"]} if before else {}),
            **frame("", last["content"][cut:]),
        },
    )


def _turns(value: Any) -> list[Turn]:
    """The turns of a chat, which may be written as JSON."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise BadRow(f"'prompt' is no JSON: {error}") from error
    if not isinstance(value, list) or not value:
        raise BadRow("'prompt' is not a list of turns")
    for turn in value:
        if not isinstance(turn, dict) or turn.get("role") not in _ROLES or not isinstance(turn.get("content"), str):
            raise BadRow("'prompt' holds a turn without a role or without a text as its content")
    return [{"role": turn["role"], "content": turn["content"]} for turn in value]


def _aa_lcr_text(folder: Path, name: str) -> str:
    archive = folder / AA_LCR_ARCHIVE
    unpacked = next((place for place in (folder, archive.parent, archive.with_suffix("")) if (place / name).is_file()),
                    None)  # fmt: skip
    if unpacked is not None:
        return (unpacked / name).read_text(encoding="utf-8")
    if not archive.is_file():
        raise BadRow(f"{name} is neither below {folder} nor in {archive}, which is missing")
    with zipfile.ZipFile(archive) as content:
        member = _members(archive).get(_plain(name))
        if member is None:
            raise BadRow(f"{archive} holds no {name}")
        return content.read(member).decode("utf-8")


@functools.lru_cache(maxsize=2)
def _members(archive: Path) -> dict[str, str]:
    """The names in the archive by their plain form."""
    with zipfile.ZipFile(archive) as content:
        return {_plain(name): name for name in content.namelist()}


def _plain(name: str) -> str:
    """The name in one form: the archive's authors wrote some in UTF-8 that zip readers take for code page 437."""
    with contextlib.suppress(UnicodeError):
        name = name.encode("cp437").decode("utf-8")
    return unicodedata.normalize("NFC", name)
