"""What reading part by part gains past the context: documents of four times the limit, the same questions twice.

    OMP_NUM_THREADS=1 python benchmarks/memory_reader.py --work DIR            # SmolLM2-135M, 48 questions

Each document is a generated manual with one sentence more, anywhere in it, that holds the answer. A prompt may have 512
tokens: ``whole`` cuts the middle out of the document, ``memory`` reads it in parts and answers from its notes. Both
are greedy. Runs ``qwenlong eval`` for each, which resumes. An answer is right if the code occurs in it, as in RULER: a
model of this size does not keep to our form of an answer. Prints both accuracies and the paired gain with its 95%
interval.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, str(Path(__file__).parent / "learning"))

from outcome import gain_cell

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.synthesis.generate import generate
from qwenlong_core.evaluation.samples import read_samples

CONSOLE = (sys.executable, "-m", "qwenlong.flows.cli")
LIMIT, TIMES = 512, 4
READERS = {
    "whole": [],
    "memory": ["evaluation.reader=memory", "evaluation.chunk=192", "evaluation.memory_tokens=64"],
}
NAMES = ("Ann", "Bob", "Cleo", "Dan", "Eva", "Finn", "Gia", "Hal", "Ida", "Jon", "Kim", "Leo")


def write_rows(path: Path, count: int) -> None:
    """Questions on documents of :data:`TIMES` times the limit, in the uniform record."""
    tokenizer = bundled_tokenizer()
    with path.open("w") as stream:
        for index in range(count):
            rng = random.Random(f"codes/{index}")
            made = generate(tokenizer, domain="reading", tokens=TIMES * LIMIT, seed=f"codes/{index}")
            name, code = rng.choice(NAMES), str(rng.randrange(10_000, 100_000))
            paragraphs = made.example.context.split("\n\n")
            paragraphs.insert(rng.randrange(len(paragraphs) + 1), f"The access code of {name} is {code}.")
            row = {
                "id": f"codes-{index}", "source": "codes", "domain": "reading", "answer_type": "number",
                "context": "\n\n".join(paragraphs), "question": f"What is the access code of {name}?",
                "answers": [code],
            }  # fmt: skip
            stream.write(json.dumps(row) + "\n")


def evaluated(model: str, rows: Path, work: Path, changes: list[str]) -> dict[str, float]:
    """Evaluate one reader; returns by question whether the code occurs in the answer."""
    settings = [f"evaluation.max_prompt_tokens={LIMIT}", "evaluation.max_completion_tokens=64", *changes]
    settings += ["evaluation.temperature=0", "evaluation.batch_size=8"]
    given = [part for setting in settings for part in ("--set", setting)]
    command = [
        sys.executable,
        "-m",
        "qwenlong.flows.cli",
        "eval",
        "--json",
        "--model",
        model,
        "--data",
        f"codes={rows}",
    ]
    printed = subprocess.run([*command, *given], cwd=work, stdout=subprocess.PIPE, text=True, check=True).stdout
    golds = {row["id"]: row["answers"][0] for row in map(json.loads, rows.open())}
    samples = read_samples(work / json.loads(printed)["folder"] / "samples.jsonl")
    return {sample.example_id: float(golds[sample.example_id] in sample.completion) for sample in samples}


def main() -> None:
    """Evaluate both readers and compare them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for all files; reused to continue")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--questions", type=int, default=48)
    args = parser.parse_args()
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    write_rows(work / "codes.jsonl", args.questions)
    found = {name: evaluated(args.model, work / "codes.jsonl", work, changes) for name, changes in READERS.items()}
    whole, memory = ([found[name][key] for key in sorted(found["whole"])] for name in READERS)
    gains = [after - before for before, after in zip(whole, memory, strict=True)]
    print(f"whole {fmean(whole):.3f}, memory {fmean(memory):.3f}, gain {gain_cell(gains)} of {len(gains)} questions")


if __name__ == "__main__":
    main()
