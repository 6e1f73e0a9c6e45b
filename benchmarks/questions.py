"""k questions on one document: all in one call beside one call per question.

    python benchmarks/questions.py MODEL_DIR        a document of 1,024 tokens, k = 1, 2, 4, 8, 16

A question has 32 tokens and its answer 16, at temperature 0. The benchmark checks that all ways give the same tokens.
``together`` decodes all k questions at once. ``in turn`` also runs the document once, but decodes one question at a
time, as ``evaluation.batch_size = 1`` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from compare import CLOCKS, Row, alternate, model_folder, row, save
from rollout import endless_engine, random_prompt
from transformers import AutoModelForCausalLM, AutoTokenizer

from qwenlong_core.generation.engine import Sampling

QUESTION, ANSWER = 32, 16


def measure(model: Any, tokenizer: Any, document: int, questions: int, repeats: int, clock: str) -> Row:
    text = random_prompt(model.config.vocab_size, document + questions * QUESTION)
    prompts = [text[:document] + text[at : at + QUESTION] for at in range(document, len(text), QUESTION)]
    sampling = Sampling(0.0, 1.0, ANSWER)
    one, many = endless_engine(model, tokenizer), endless_engine(model, tokenizer, questions)
    answers: dict[str, list[Any]] = {}

    def ask(name: str, groups: list[list[Any]]) -> None:
        answers[name] = [group[0].token_ids for group in groups]

    calls = {
        "together": lambda: ask("together", many.generate(prompts, 1, sampling)),
        "in turn": lambda: ask("in turn", one.generate(prompts, 1, sampling)),
        "one by one": lambda: ask("one by one", [one.generate([p], 1, sampling)[0] for p in prompts]),
    }
    for engine in (one, many):
        engine.generate([[5]], 1, sampling)  # the first call checks shared parts on this model
    print(f"k={questions}", flush=True)
    times = alternate(calls, repeats, clock)
    assert answers["together"] == answers["in turn"] == answers["one by one"]
    return row(times, "together", k=questions, document=document)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--document", type=int, default=1024)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [measure(model, tokenizer, args.document, k, args.repeats, args.clock) for k in args.questions]
    save(rows, args.output, "questions", x="k")


if __name__ == "__main__":
    main()
