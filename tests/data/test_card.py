import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from qwenlong_core.data.prepare import prepare
from qwenlong_core.jobs import PrepareJob
from qwenlong_core.settings.data import DataSettings


@pytest.fixture(scope="module")
def card(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """The output of two sources with a duplicate, an unreadable row and a row too long."""
    folder = tmp_path_factory.mktemp("card")
    rows = [
        {
            "id": f"r{i}",
            "source": "wiki|a" if i < 4 else "b",
            "domain": "math" if i < 4 else "reading",
            "question": f"How much is {i}?",
            "context": "```\n" + " ".join(f"{i}w{j}" for j in range(20)),
            "answers": ["5"],
        }
        for i in range(6)
    ]
    rows += [{**rows[0], "id": "twice"}, {**rows[0], "id": "long", "context": "long " * 3_000}]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "cut")
    data = DataSettings(sft=(), train=(str(folder / "rows.jsonl"),), eval=(), max_refused_share=0.5)
    job = PrepareJob(data=data, sft_max_tokens=400, phase_limits=(300, 700), eval_max_tokens=400, seed=1)
    prepare(job, tokenizer, folder / "out", ("train",), every_phase=False)
    return folder / "out"


def test_the_card_counts_what_the_files_hold(card: Path) -> None:
    text = (card / "card.md").read_text()
    for row in (
        "| train | 9 | 1 | 2 | 6 | 6 |",
        "| wiki\\|a | 4 |",
        "| b | 2 |",
        "| math | 4 |",
        "| reading | 2 |",
        "| 1 | 300 | 6 |",
        "| 2 | 700 | 0 |",
        "| duplicate | 1 |",
        "| over_length (more than 700 tokens) | 1 |",
        "| not valid JSON | 1 |",
    ):
        assert row in text, row


def test_samples_show_each_source_and_no_text_breaks_out_of_its_block(card: Path) -> None:
    samples = (card / "card.md").read_text().partition("## Samples")[2]
    assert samples.count("### train: ") == 2
    assert all(line.startswith(("    ", "### ")) for line in samples.splitlines() if line)


def test_the_picture_is_drawn_without_a_date(card: Path) -> None:
    text = (card / "lengths.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg")
    assert "dc:date" not in text
    assert "](lengths.svg)" in (card / "card.md").read_text()
