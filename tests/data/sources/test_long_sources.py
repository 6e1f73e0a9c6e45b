"""MRCR, AA-LCR, CorpusQA and LongBench v2 in the layouts that their authors publish."""

import json
import zipfile
from pathlib import Path

import pytest
from long_copies import CHAT, CORPUS, LCR, MRCR, write_aa_lcr, write_corpusqa, write_longbench_v2, write_mrcr

from qwenlong_core.data.prompts import user_message
from qwenlong_core.data.sources.read import read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.data.wordings import earlier_turns, without_document, without_middle
from qwenlong_core.evaluation.official import mrcr_bin, official_metrics
from qwenlong_core.records import Example
from qwenlong_core.rewards.rules import rule_score


def examples(spec: str) -> list[Example]:
    rows = list(read_source(spec))
    assert not [row for row in rows if isinstance(row, Refused)], rows
    return rows


def reasons(spec: str) -> list[str]:
    return [row.reason for row in read_source(spec) if isinstance(row, Refused)]


def test_mrcr_is_a_conversation_and_its_own_answer_scores_1(tmp_path):
    (row,) = examples(write_mrcr(tmp_path, MRCR))
    assert row.source == "mrcr-2needle"
    assert [*earlier_turns(row), {"role": "user", "content": user_message(row)}] == CHAT
    assert rule_score(row.answers[0], row).value == 1
    assert rule_score("Tapirs tread.", row).value == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prompt": "not json"}, "'prompt' is no JSON"),
        ({"prompt": "[]"}, "not a list of turns"),
        ({"prompt": json.dumps(CHAT[:4])}, "does not end in a user's question"),
        ({"answer": "Tapirs"}, "does not begin with"),
        ({"n_needles": 0}, "not a number of messages"),
    ],
)
def test_mrcr_rows_of_another_layout_are_refused(tmp_path, change, reason):
    assert reason in reasons(write_mrcr(tmp_path, MRCR | change))[0]


def test_a_conversation_loses_whole_exchanges_from_its_middle(tmp_path):
    (row,) = examples(write_mrcr(tmp_path, MRCR))
    assert earlier_turns(without_middle(row, 1)) == CHAT[:2]
    assert earlier_turns(without_middle(row, 0)) == [] == earlier_turns(without_document(row))
    assert earlier_turns(without_middle(row, 2)) == CHAT[:4]


def test_bins_of_mrcr_include_their_upper_bound():
    bounds = {4095: "below 4K", 4096: "4K–8K", 8192: "4K–8K", 8193: "8K–16K", 131_072: "64K–128K", 131_073: "128K–256K"}
    assert {tokens: mrcr_bin(tokens) for tokens in bounds} == bounds
    assert mrcr_bin(1 << 20) == "512K–1M" and mrcr_bin((1 << 20) + 1) == "over 1M"


def test_aa_lcr_reads_its_documents_from_the_archive_in_the_rows_order(tmp_path):
    (row,) = examples(write_aa_lcr(tmp_path, LCR))
    assert user_message(row) == (
        "BEGIN INPUT DOCUMENTS\n\nBEGIN DOCUMENT 1:\nfirst\nEND DOCUMENT 1\n\nBEGIN DOCUMENT 2:\nsecond\nEND DOCUMENT 2"
        "\n\nEND INPUT DOCUMENTS\n\nAnswer the following question using the input documents provided above.\n\n"
        "START QUESTION\n\nWhich is larger?\n\nEND QUESTION\n"
    )
    assert row.metadata["parts"] == ["Company Documents"] and row.answers == ("The second",)


def test_aa_lcr_reads_unpacked_documents_and_names_a_missing_one(tmp_path):
    spec = write_aa_lcr(tmp_path, LCR)
    with zipfile.ZipFile(tmp_path / "extracted_text/AA-LCR_extracted-text.zip") as archive:
        folder = tmp_path / "extracted_text/lcr/Company_Documents/co_1"
        folder.mkdir(parents=True)
        for name, member in zip(("b.txt", "the EU’s a.txt"), archive.namelist(), strict=True):
            (folder / name).write_bytes(archive.read(member))
    (tmp_path / "extracted_text/AA-LCR_extracted-text.zip").unlink()
    assert "second" in examples(spec)[0].context
    assert "c.txt" in reasons(write_aa_lcr(tmp_path / "other", LCR | {"data_source_filenames": "c.txt"}))[0]


def test_corpusqa_keeps_its_chat_and_an_empty_list_is_a_gold(tmp_path):
    (row,) = examples(write_corpusqa(tmp_path))
    assert [*earlier_turns(row), {"role": "user", "content": user_message(row)}] == CORPUS["prompt"]
    assert row.answers == ("[]",) and row.context == "# Document 1:\nA has 3.\n"
    assert row.metadata["parts"] == ["education_en"]


def v2(tmp_path: Path) -> Example:
    (row,) = examples(write_longbench_v2(tmp_path))
    return row


def test_longbench_v2_asks_in_its_own_words_with_and_without_the_text(tmp_path):
    row = v2(tmp_path)
    options = "Choices:\n(A) Ann\n(B) Bob\n(C) Cy\n(D) Di\n\n"
    form = 'Format your response as follows: "The correct answer is (insert answer here)".'
    asked = f"What is the correct answer to this question: Who pays?\n{options}"
    assert user_message(row) == (
        "Please read the following text and answer the question below.\n\n<text>\nBob pays.\n</text>\n\n" + asked + form
    )
    alone = f"{asked}What is the single, most likely answer choice? {form}"
    assert user_message(without_document(row)) == alone
    assert row.metadata["parts"] == ["hard", "medium"]


@pytest.mark.parametrize(
    ("completion", "value"),
    [
        ("The correct answer is (B).", 1),
        ("**The correct answer is (B)**", 1),
        ("The correct answer is B", 1),
        ("The correct answer is A. Or: The correct answer is (B)", 1),  # the form in parentheses goes first
        ("The correct answer is (A), then The correct answer is (B)", 0),  # the first of its form
        ("the correct answer is (B)", 0),  # its case counts
        ("B", 0),
        ("<think>The correct answer is (A)</think> The correct answer is (B)", 1),
    ],
)
def test_longbench_v2s_own_scorer(tmp_path, completion, value):
    assert official_metrics(v2(tmp_path), None, 0.0, completion) == {"longbench_v2_accuracy": value}
