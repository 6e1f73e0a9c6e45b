"""Small copies of the paper's seven benchmarks, in the layouts that their authors publish on the hub."""

import json
import zipfile
from pathlib import Path
from typing import Any

CITIES = ("Lisbon", "Oslo", "Vienna", "Dublin", "Athens", "Prague", "Zagreb", "Tallinn")
PEOPLE = ("Ada Moreau", "Ben Okafor", "Cleo Varga", "Dan Lindqvist", "Eva Rossi", "Finn Kowal", "Gia Petrov", "Hal Ito")
DOCMATH, FRAMES, LONGBENCH = "Tongyi-Zhiwen/docmath", "Tongyi-Zhiwen/frames", "THUDM/LongBench"
TASKS = ("2wikimqa", "hotpotqa", "musique", "narrativeqa", "qasper")
KINDS = ("complong", "compshort", "simplong", "simpshort")


def write_copies(folder: Path, items: int = 4) -> Path:
    """``items`` questions a benchmark (at most eight), each on a document of its own, below ``OWNER/NAME``.

    DocMath has one more question a file, which the paper's selection leaves out.
    """
    _write_docmath(folder / DOCMATH, items)
    _write_lines(folder / FRAMES / "test.jsonl", [_frames(number) for number in range(items)])
    archive = folder / LONGBENCH / "data.zip"
    archive.parent.mkdir(parents=True)
    with zipfile.ZipFile(archive, "w") as content:
        for task in TASKS:
            rows = [_longbench(task, number) for number in range(items)]
            content.writestr(f"data/{task}.jsonl", _lines(rows))
            content.writestr(f"data/{task}_e.jsonl", _lines(rows[:1]))
    (archive.parent / "LongBench.py").write_text("# the hub's loading script\n")
    return folder


def _lines(rows: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(_lines(rows), encoding="utf-8")


def _docmath(kind: str, number: int) -> dict[str, Any]:
    sales, costs = 100 + 7 * number, 40 + 3 * number
    paragraphs = [
        f"{CITIES[number]} Works, {kind} filing.",
        f"Sales were ${sales} million and costs were ${costs} million in 2021.",
    ]
    return {
        "question_id": f"{kind}-testmini-{number}",
        "source": "finqa",
        "original_question_id": f"{CITIES[number]}/2021/page_{number}.pdf",
        "question": f"What was the profit of {CITIES[number]} Works in 2021, in millions of dollars?",
        "paragraphs": paragraphs,
        "table_evidence": [],
        "paragraph_evidence": [1],
        "python_solution": f"def solution():\n    return {sales} - {costs}",
        "ground_truth": float(sales - costs),
    }


def _write_docmath(folder: Path, items: int) -> None:
    selected = []
    for index, kind in enumerate(KINDS):
        wanted = len(range(index, items, len(KINDS)))
        rows = [_docmath(kind, number) for number in range(wanted + 1)]  # the last one is not selected
        _write_lines(folder / f"{kind}_testmini.jsonl", rows)
        selected += rows[:wanted]
    form = 'Format your response as follows: "Therefore, the answer is (insert answer here)".'
    documents = ("\n".join(row["paragraphs"]) for row in selected)
    prompts = (
        f"Please read the following text and answer the question below.\n\n<text>\n{document}\n</text>\n\n"
        f"{row['question']}\n\n{form}"
        for document, row in zip(documents, selected)
    )
    lines = [{"prompt": [{"role": "user", "content": prompt}], "data_source": "docmath"} for prompt in prompts]
    _write_lines(folder / "docmath_all_test_200.jsonl", lines)


def _frames(number: int) -> dict[str, Any]:
    person, city = PEOPLE[number], CITIES[number]
    texts = {
        f"{city} Bridge": f"The {city} Bridge was designed by {person} and opened in {1900 + number}.",
        person: f"{person} was an engineer who was born in {CITIES[-1 - number]}.",
    }
    items = [
        {"title": title, "link": f"https://en.wikipedia.org/wiki/{title}", "frames_prompt_id": [number],
         "original_link": [f"https://en.wikipedia.org/wiki/{title}"], "text": text}
        for title, text in texts.items()
    ]  # fmt: skip
    return {
        "Unnamed: 0": number,
        "Prompt": f"In which city was the designer of the {city} Bridge born?",
        "Answer": CITIES[-1 - number],
        "wikipedia_link_1": items[0]["link"],
        "wikipedia_link_2": items[1]["link"],
        "wikipedia_link_11+": None,
        "reasoning_types": "Multiple constraints",
        "wiki_links": str([item["link"] for item in items]),
        "wiki_items": items,
    }


def _longbench(task: str, number: int) -> dict[str, Any]:
    person, city, other = PEOPLE[number], CITIES[number], CITIES[(number + 3) % len(CITIES)]
    passages = f"Passage 1:\n{person}\n{person} lives in {city}.\n\nPassage 2:\n{city}\n{city} lies near {other}."
    context, question, answers = {
        "2wikimqa": (passages, f"Near which city does {person} live?", [other]),
        "hotpotqa": (f"{passages}\nIt has a port.", f"Does {person} live in {city} or in {other}?", [city]),
        "musique": (f"{passages}\nIt has a river.", f"What lies near the home of {person}?", [other]),
        "narrativeqa": (
            f"The captain, {person}, sailed home from {other} with a green parrot. In {city} the parrot spoke.",
            f"Where did the parrot of {person} speak?",
            [city, f"In {city}"],
        ),
        "qasper": (
            f"We propose {city}Net, a parser by {person}. It is trained on {10 + number} languages.",
            f"On how many languages is {city}Net trained?",
            [f"{10 + number} languages", str(10 + number)],
        ),
    }[task]
    return {
        "input": question,
        "context": context,
        "answers": answers,
        "length": len(context.split()),
        "dataset": task,
        "language": "en",
        "all_classes": None,
        "_id": f"{task}{number:020d}",
    }
