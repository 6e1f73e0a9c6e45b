"""Small copies of the long benchmarks, in the layouts that their authors publish: one row each of MRCR, AA-LCR,
CorpusQA and LongBench v2."""

import csv
import json
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

CHAT = [
    {"role": "user", "content": "Write a poem about tapirs"},
    {"role": "assistant", "content": "Tapirs tread."},
    {"role": "user", "content": "Write a riddle about tapirs"},
    {"role": "assistant", "content": "What treads?"},
    {"role": "user", "content": 'Prepend aB3x to the 1st poem about tapirs. Do not include any other text.'},
]  # fmt: skip
MRCR = {
    "prompt": json.dumps(CHAT), "answer": "aB3xTapirs tread.", "random_string_to_prepend": "aB3x", "n_needles": 2,
    "desired_msg_index": 1, "total_messages": 5, "n_chars": 140, "date_added": "04-12-2025",
}  # fmt: skip
LCR = {
    "": "0", "document_category": "Company Documents", "document_set_id": "co_1", "question_id": "7",
    "question": "Which is larger?", "answer": "The second", "data_source_filenames": "b.txt;the EU’s a.txt",
    "data_source_urls": "u;v", "input_tokens": "42",
}  # fmt: skip
CORPUS = {
    "id": "education_en_3",
    "prompt": [
        {"role": "system", "content": "You are careful."},
        {"role": "user", "content": "# Document 1:\nA has 3.\n# Question: Which have more than 5?\nThe answer is: ?"},
    ],
    "question": "Which have more than 5?", "answer": [], "set": "128k", "domain": "education_en", "doc_files": ["a.md"],
}  # fmt: skip
V2 = {
    "_id": "v", "domain": "Single-Document QA", "sub_domain": "Legal", "difficulty": "hard", "length": "medium",
    "question": "Who pays?", "choice_A": "Ann", "choice_B": "Bob", "choice_C": "Cy", "choice_D": "Di", "answer": "B",
    "context": "Bob pays.",
}  # fmt: skip

NAMES = {
    "longbench-v2": "THUDM/LongBench-v2",
    "mrcr": "openai/mrcr",
    "aa-lcr": "ArtificialAnalysis/AA-LCR",
    "corpusqa": "Tongyi-Zhiwen/CorpusQA",
}
"""The repository of each benchmark on the hub."""


def write_mrcr(folder: Path, *rows: dict[str, Any]) -> str:
    """The source that reads these rows."""
    (folder / "2needle").mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), folder / "2needle/2needle_0.parquet")
    return f"mrcr:{folder}"


def write_aa_lcr(folder: Path, row: dict[str, Any]) -> str:
    """The source that reads this row, with its archive of documents."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "AA-LCR_Dataset.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, fieldnames=list(LCR))
        writer.writeheader()
        writer.writerow(row)
    (folder / "extracted_text").mkdir(exist_ok=True)
    # The published archive holds some names whose UTF-8 is marked as code page 437.
    mangled = "the EU’s a.txt".encode().decode("cp437")
    with zipfile.ZipFile(folder / "extracted_text/AA-LCR_extracted-text.zip", "w") as archive:
        archive.writestr("lcr/Company_Documents/co_1/b.txt", "first")
        archive.writestr(f"lcr/Company_Documents/co_1/{mangled}", "second")
    return f"aa-lcr:{folder}"


def write_corpusqa(folder: Path) -> str:
    """The source that reads :data:`CORPUS`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "128k_4domains.jsonl").write_text(json.dumps(CORPUS) + "\n")
    return f"corpusqa:{folder}"


def write_longbench_v2(folder: Path) -> str:
    """The source that reads :data:`V2`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "data.json").write_text(json.dumps([V2]))
    return f"longbench-v2:{folder}"


def write_long_copies(folder: Path) -> Path:
    """All four, below ``OWNER/NAME`` as the hub has them."""
    write_mrcr(folder / NAMES["mrcr"], MRCR)
    write_aa_lcr(folder / NAMES["aa-lcr"], LCR)
    write_corpusqa(folder / NAMES["corpusqa"])
    write_longbench_v2(folder / NAMES["longbench-v2"])
    return folder
