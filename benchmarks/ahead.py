"""What rollouts one step ahead would gain: a rollout and an update one after the other, and at the same time.

    python benchmarks/ahead.py MODEL_DIR                                        P=2048, C=128, G=8, all cores

Two processes, as the engine and the trainer would be: one samples a group, the other does the forward and backward of a
group of the same shape. *In turn* each has all cores while the other waits. *At once* each has half of the cores, and
the step lasts as long as the slower one. *Twice the machine* is what (g + t) / max(g, t) promises: each has all the
cores of a machine of its own. It is computed, not measured. Wall seconds: the machine must be quiet.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median

import torch
from compare import Row, model_folder, save, seconds
from rollout import endless_engine, random_prompt
from transformers import AutoModelForCausalLM, AutoTokenizer
from update_variants import build, group_inputs, update
from update_variants import parser as update_options

from qwenlong.tasks.process import HEAP
from qwenlong_core.generation.engine import Sampling

Shape = tuple[str, int, int, int]
"""Model folder, tokens of the prompt and of each completion, completions."""


def a_rollout(shape: Shape) -> Callable[[], object]:
    """A call that samples a group."""
    folder, prompt, completion, group = shape
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    engine = endless_engine(model, AutoTokenizer.from_pretrained(folder))
    engine.generate([[5] * 8], group, Sampling(1.0, 1.0, 2, seed=0))  # the first call checks shared parts on this model
    ids = random_prompt(model.config.vocab_size, prompt)
    return lambda: engine.generate([ids], group, Sampling(1.0, 1.0, completion, seed=0))


def an_update(shape: Shape) -> Callable[[], object]:
    """A call that does the forward and backward of a group, as the trainer does."""
    folder, prompt, completion, group = shape
    options = [f"--model={folder}", f"--prompt={prompt}", f"--completion={completion}", f"--group={group}"]
    args = update_options().parse_args([*options, "--variant=ours", "--checkpointing"])
    with tempfile.TemporaryDirectory() as scratch:
        trainer = build(args, scratch)
    vocabulary, device = trainer.model.config.vocab_size, trainer.accelerator.device
    update(trainer, group_inputs(80, [8] * group, vocabulary, device), group)  # starts threads, checks packing
    inputs = group_inputs(prompt, [completion] * group, vocabulary, device)
    return lambda: update(trainer, inputs, group)


PARTS = {"rollout": a_rollout, "update": an_update}


def serve(part: str, shape: Shape, pipe: Connection) -> None:
    """Answer each number of threads with the seconds that the part takes, until 0 comes."""
    call = PARTS[part](shape)
    pipe.send(0.0)
    while threads := pipe.recv():
        torch.set_num_threads(threads)
        pipe.send(seconds(call))


def measure(shape: Shape, cores: int, repeats: int) -> Row:
    """Median seconds of both parts in turn and at once, and what is gained."""
    context = get_context("spawn")
    pipes, workers = {}, []
    for part in PARTS:
        pipes[part], theirs = context.Pipe()
        workers.append(context.Process(target=serve, args=(part, shape, theirs), daemon=True))
        workers[-1].start()
        theirs.close()  # a worker that fails ends the wait
        pipes[part].recv()

    def ask(threads: int, *parts: str) -> list[float]:
        for part in parts:
            pipes[part].send(threads)
        return [pipes[part].recv() for part in parts]

    alone: dict[str, list[float]] = {part: [] for part in PARTS}
    together: dict[str, list[float]] = {part: [] for part in PARTS}
    for _ in range(repeats):
        for part in PARTS:
            alone[part] += ask(cores, part)
        for part, took in zip(PARTS, ask(cores // 2, *PARTS), strict=True):
            together[part].append(took)
        print("  " + ", ".join(f"{part} {alone[part][-1]:.2f} s, at once {together[part][-1]:.2f} s" for part in PARTS))
    for pipe, worker in zip(pipes.values(), workers, strict=True):
        pipe.send(0)
        worker.join()
    turns = [sum(pair) for pair in zip(*alone.values(), strict=True)]
    ahead = [max(pair) for pair in zip(*together.values(), strict=True)]
    slower = [max(pair) for pair in zip(*alone.values(), strict=True)]
    return {
        "P": shape[1], "C": shape[2], "G": shape[3],
        **{f"{part} s": round(median(alone[part]), 2) for part in PARTS},
        **{f"{part} at once s": round(median(together[part]), 2) for part in PARTS},
        "in turn / at once": round(median(a / b for a, b in zip(turns, ahead, strict=True)), 2),
        "in turn / twice the machine": round(median(a / b for a, b in zip(turns, slower, strict=True)), 2),
    }  # fmt: skip


def main() -> None:
    """Measure and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--prompt", type=int, nargs="+", default=[2048])
    parser.add_argument("--completion", type=int, default=128)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    cores = len(os.sched_getaffinity(0))
    if cores < 2:
        parser.error("one core cannot be halved; run it on two or more")
    os.environ |= HEAP  # as for the process of a stage
    shapes = [(str(args.model), prompt, args.completion, args.group) for prompt in args.prompt]
    save([measure(shape, cores, args.repeats) for shape in shapes], args.output, "ahead", x="P")


if __name__ == "__main__":
    main()
