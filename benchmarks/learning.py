"""Does GRPO make a policy better on questions it has not seen? One warm-up, five seeds, paired.

    python benchmarks/learning.py --work DIR [--seeds 11 12 13 14 15] [--steps 40] [--jobs 1]

A small Llama (3.5 million parameters, a vocabulary of its own so that a CPU spends its time on the text
and not on 49,000 logits) first learns to read generated documents as a language model, until it can
copy from its context, and is then warmed up by the pipeline's SFT. Then, for each seed, GRPO trains it
further on other documents, and the start and the trained policy answer the same held-out questions
with the same sampling seeds. All but the reading runs by the pipeline's own stage commands (prepare,
SFT, GRPO, evaluation). Rows of SFT, training and evaluation share no document. Prints and saves ``table.md``, ``result.json`` and ``curve.svg``: accuracy of both by seed,
the mean gain with its 95% interval (Student's t over the seeds), and the curve of each training.
A stage that is done is not run again, so an interrupted benchmark goes on. No gain has been shown with it yet:
one seed went from 0.125 to 0.145, within noise.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev

import matplotlib
import torch
from scipy.stats import t
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn.functional import cross_entropy
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.config import Settings
from qwenlong_core.data.prompts import render_prompt, user_message
from qwenlong_core.data.synthesis import generate
from qwenlong_core.evaluation.samples import read_samples
from qwenlong_core.records import Domain, Example
from tasks.process import stage_command
from tasks.specs import StageSpec, evaluate_stage, grpo_stage, prepare_stage, sft_stage

matplotlib.use("Agg")

DOMAINS: tuple[Domain, ...] = ("multihop",)
SHORTEST, LONGEST = 160, 176
"""Prompt tokens: a small model reads little, and the five trainings fit in an hour."""
CHAT_TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
WINDOW = 5
"""Steps over which the training curve is averaged."""


def settings_for(work: Path, args: argparse.Namespace) -> Settings:
    """The pipeline's settings of this experiment."""
    rows = {name: str(work / f"{name}.jsonl") for name in ("sft", "train", "eval")}
    phase = {"max_prompt_tokens": 400, "max_completion_tokens": 64, "cache_tokens": 16, "steps": args.steps}
    return Settings.model_validate(
        {
            "profile": "learning",
            "model": {"name": str(work / "base")},
            "data": {**rows, "near_duplicates": None},
            "sft": {"max_tokens": 500, "learning_rate": 1e-3, "epochs": 0.2, "batch_size": 16, "micro_batch_size": 16,
                    "save_steps": 100},
            "grpo": {"group_size": 8, "batch_size": 16, "mini_batch_size": 8, "micro_batch_size": 8,
                     "learning_rate": args.learning_rate, "temperature": 1.0, "top_p": 1.0, "clip_high": 0.28,
                     "save_steps": 10, "dynamic_sampling": {"max_rounds": 2}, "phases": [phase]},
            "evaluation": {"max_prompt_tokens": 400, "max_completion_tokens": 64, "temperature": 0.7, "top_p": 0.95,
                           "samples": args.samples, "batch_size": 16},
            "launch": {"cpu_threads": args.threads},
        }
    )  # fmt: skip


def make_rows(path: Path, rows: int) -> list[Example]:
    """``rows`` generated rows of every domain, also written to ``path``, whose name seeds them."""
    tokenizer = bundled_tokenizer()
    examples = []
    for domain in DOMAINS:
        for index in range(rows):
            tokens = SHORTEST + index % (LONGEST - SHORTEST + 1)
            example = generate(tokenizer, domain=domain, tokens=tokens, seed=f"{path.stem}/{index}").example
            examples.append(replace(example, id=f"{domain}-{path.stem}-{index}"))
    path.write_text("".join(json.dumps(example.to_dict()) + "\n" for example in examples))
    return examples


def train_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE of 2,048 tokens, digits one by one, with a plain chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2048, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    pad, start, end = special
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=start, eos_token=end, pad_token=pad)
    fast.chat_template = CHAT_TEMPLATE
    return fast


def small_llama(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """A random Llama of 3.5 million parameters."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=256, intermediate_size=640, num_hidden_layers=4, num_attention_heads=8,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return LlamaForCausalLM(config)


PROMPT, ANSWER, COPY = 1, 2, 3
"""What a token of a reading row is; 0 is padding."""


def reading_rows(
    tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], steps: int
) -> Iterator[list[tuple[list[int], list[int]]]]:
    """Batches of 16 rows, each its token ids and what each token is: prompts with their solutions, and
    documents twice over, which teach copying from the context soonest: every other row in the first third
    of the steps, every eighth in the second, none in the last."""
    generator = random.Random(0)
    for step in range(steps):
        every = (2, 8, 17)[3 * step // steps]
        batch = []
        for index, example in enumerate(generator.sample(examples, 16)):
            if index % every == every - 1:
                document: list[int] = tokenizer.encode(example.context)[:110]
                batch.append(([*document, *document], [PROMPT] * len(document) + [COPY] * len(document)))
            else:
                prompt: list[int] = tokenizer.encode(render_prompt(tokenizer, example))
                answer: list[int] = [*tokenizer.encode(example.solution or ""), tokenizer.eos_token_id]
                batch.append(([*prompt, *answer], [PROMPT] * len(prompt) + [ANSWER] * len(answer)))
        yield batch


def learn_to_read(
    model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, examples: Sequence[Example], steps: int
) -> None:
    """Language modelling over all tokens, the mean of each kind weighing the same, with Muon for the layers'
    matrices (torch.optim.Muon): Adam took several times as long to the first copied name."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    rest = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    optimizers = [
        torch.optim.Muon(matrices, lr=0.02, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=3e-3, weight_decay=0.0),
    ]
    schedules = [get_cosine_schedule_with_warmup(o, 50, steps) for o in optimizers]
    for step, batch in enumerate(reading_rows(tokenizer, examples, steps)):
        ids = pad_sequence(
            [torch.tensor(row) for row, _ in batch], batch_first=True, padding_value=tokenizer.pad_token_id
        )
        kinds = pad_sequence([torch.tensor(kind) for _, kind in batch], batch_first=True)[:, 1:]
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        means = {
            kind: losses[kinds == kind].mean() for kind in (PROMPT, ANSWER, COPY) if (kinds == kind).any()
        }
        model.zero_grad()
        torch.stack([*means.values()]).sum().backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer, schedule in zip(optimizers, schedules):
            optimizer.step()
            schedule.step()
        if step % 50 == 49:
            print(
                f"reading: step {step + 1}/{steps}, loss of answers {means[ANSWER].item():.3f}",
                file=sys.stderr,
                flush=True,
            )


def write_model(folder: Path, examples: Sequence[Example], steps: int) -> None:
    """Tokenizer and model made for the rows."""
    tokenizer = train_tokenizer(f"{user_message(example)}\n{example.solution}" for example in examples)
    model = small_llama(tokenizer)
    learn_to_read(model, tokenizer, examples, steps)
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)


def run_stage(spec: StageSpec, work: Path, **inputs: Path) -> Path:
    """Run a stage's own command unless it is done; returns its output folder."""
    done, output = work / "done", work / "output"
    if not done.exists():
        work.mkdir(parents=True, exist_ok=True)
        (work / "job.json").write_text(json.dumps(spec.job))
        launch = [
            "--num_processes",
            "1",
            "--mixed_precision",
            "no",
            "--dynamo_backend",
            "no",
            "--num_machines",
            "1",
        ]
        options = launch if spec.launcher == "accelerate" else None
        command = stage_command(spec.module, options, work / "job.json", inputs, work)
        with (work / "log.txt").open("a") as log:
            if subprocess.run(command, stdout=log, stderr=log).returncode:
                raise SystemExit(f"{spec.name} failed; see {work / 'log.txt'}")
        done.touch()
        print(f"{work.name}: {spec.name} done", file=sys.stderr, flush=True)
    return output


@dataclass(frozen=True, slots=True)
class Outcome:
    """One seed."""

    seed: int
    start: float
    """Held-out accuracy before GRPO, under this seed's sampling."""
    trained: float
    curve: list[float]
    """Accuracy of all completions drawn, by step."""


def accuracy(evaluation: Path) -> float:
    """Mean over all held-out samples."""
    return fmean(sample.accuracy for sample in read_samples(evaluation / "samples.jsonl"))


def one_seed(settings: Settings, seed: int, work: Path, policy: Path, data: Path) -> Outcome:
    """Train with a seed and evaluate both policies."""
    seeded = settings.model_copy(update={"seed": seed})
    folder = work / f"seed-{seed}"
    trained = run_stage(grpo_stage(seeded, 1), folder / "grpo", model=policy, data=data)
    before, after = (
        run_stage(evaluate_stage(seeded, name), folder / f"evaluate-{name}", model=model, data=data)
        for name, model in (("start", policy), ("trained", trained))
    )
    steps = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    return Outcome(seed, accuracy(before), accuracy(after), [step["accuracy"] for step in steps])


def interval(gains: list[float]) -> tuple[float, float, float]:
    """Mean and 95% interval by Student's t."""
    mean = fmean(gains)
    half = float(t.ppf(0.975, len(gains) - 1)) * stdev(gains) / math.sqrt(len(gains))
    return mean, mean - half, mean + half


def table(outcomes: list[Outcome]) -> str:
    """Markdown: a line a seed, then the mean."""
    lines = ["| seed | start | after GRPO | gain |", "|---|---|---|---|"]
    lines += [
        f"| {o.seed} | {o.start:.3f} | {o.trained:.3f} | {o.trained - o.start:+.3f} |" for o in outcomes
    ]
    mean, low, high = interval([o.trained - o.start for o in outcomes])
    start, trained = fmean(o.start for o in outcomes), fmean(o.trained for o in outcomes)
    return "\n".join(
        [*lines, f"| mean | {start:.3f} | {trained:.3f} | {mean:+.3f} [{low:+.3f}, {high:+.3f}] |", ""]
    )


def plot(outcomes: list[Outcome], path: Path) -> None:
    """Training accuracy by step, averaged over a few steps, one line a seed."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4))
    for outcome in outcomes:
        curve = outcome.curve
        axes.plot(
            [fmean(curve[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(curve))],
            label=f"seed {outcome.seed}",
        )
    axes.set(xlabel="GRPO step", ylabel=f"accuracy of drawn completions, mean of {WINDOW} steps")
    axes.legend()
    figure.savefig(path, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[11, 12, 13, 14, 15])
    parser.add_argument("--steps", type=int, default=40, help="GRPO steps")
    parser.add_argument("--learning-rate", type=float, default=2e-4, help="of GRPO")
    parser.add_argument("--reading-steps", type=int, default=900, help="language-model steps before SFT")
    parser.add_argument(
        "--sft", type=int, default=8_000, help="rows that are read, and of which SFT takes a fifth"
    )
    parser.add_argument("--train", type=int, default=400, help="GRPO rows a domain")
    parser.add_argument("--eval", type=int, default=100, help="held-out rows a domain")
    parser.add_argument("--samples", type=int, default=2, help="answers to a held-out question")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="seeds at once")
    args = parser.parse_args()
    if len(args.seeds) < 2:
        parser.error("an interval needs at least two seeds")
    work: Path = args.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "base" / "config.json").exists():
        rows = {
            name: make_rows(work / f"{name}.jsonl", getattr(args, name)) for name in ("sft", "train", "eval")
        }
        torch.set_num_threads(args.threads)
        write_model(work / "base", rows["sft"], args.reading_steps)
    settings = settings_for(work, args)
    data = run_stage(prepare_stage(settings), work / "prepare", base=work / "base")
    policy = run_stage(sft_stage(settings), work / "sft-stage", model=work / "base", data=data)
    with ThreadPoolExecutor(args.jobs) as pool:
        outcomes = list(pool.map(lambda seed: one_seed(settings, seed, work, policy, data), args.seeds))
    (work / "result.json").write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))
    (work / "table.md").write_text(table(outcomes))
    plot(outcomes, work / "curve.svg")
    print(table(outcomes))


if __name__ == "__main__":
    main()
