"""Rollout of a group beside its peers: G completions of C tokens on a prompt of P tokens.

    python benchmarks/rollout.py MODEL_DIR                       P=2048, C=64 and 128, G=8
    python benchmarks/rollout.py MODEL_DIR --profile             where our time goes, by operator
    python benchmarks/rollout.py MODEL_DIR --vllm-python PYTHON  also vLLM, in the environment of that Python

``generate`` is transformers' function as TRL calls it, with the prompt repeated G times. ``expanded`` is ``generate``
after one prefill whose cache is repeated. All sample at temperature 1 and stop at C tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import torch
from compare import CLOCKS, Row, alternate, model_folder, row, save
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.transformers_engine import TransformersEngine

VLLM = """
import json, sys, time
from vllm import LLM, SamplingParams
folder, prompt, lengths, group, repeats, clock = json.load(sys.stdin)
now = time.process_time if clock == "processor" else time.perf_counter
longest = len(prompt) + max(lengths)
llm = LLM(model=folder, dtype="float32", max_model_len=longest, enforce_eager=True, gpu_memory_utilization=0.5)
times = {}
for length in lengths:
    params = SamplingParams(n=group, temperature=1.0, max_tokens=length, min_tokens=length, ignore_eos=True)
    llm.generate([{"prompt_token_ids": prompt[:-1]}], SamplingParams(max_tokens=1), use_tqdm=False)
    for _ in range(repeats):
        llm.reset_prefix_cache()
        start = now()
        llm.generate([{"prompt_token_ids": prompt}], params, use_tqdm=False)
        times.setdefault(length, []).append(now() - start)
print("TIMES", json.dumps(times))
"""


def random_prompt(vocabulary: int, length: int) -> list[int]:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(100, vocabulary, (length,), generator=generator).tolist()


def endless_engine(model: Any, tokenizer: Any, batch_size: int = 1) -> TransformersEngine:
    """An engine whose completions all reach the limit, as the peers' do."""
    engine = TransformersEngine(model, tokenizer, batch_size)
    engine.stop_ids = frozenset()
    return engine


@torch.no_grad()
def by_generate(model: Any, prompt: list[int], group: int, length: int, expanded: bool = False) -> None:
    """transformers' ``generate`` on G repeated prompts; with ``expanded``, after one prefill."""
    ids = torch.tensor([prompt]).expand(group, -1)
    cache = None
    if expanded:
        cache = DynamicCache(config=model.config)
        model(input_ids=ids[:1, :-1], past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache.batch_repeat_interleave(group)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        past_key_values=cache,
        do_sample=True,
        temperature=1.0,
        top_p=1.0,
        top_k=0,
        max_new_tokens=length,
        min_new_tokens=length,
    )
    assert output.shape == (group, len(prompt) + length)


def measure(model: Any, tokenizer: Any, prompt: list[int], length: int, *, group: int, repeats: int, clock: str) -> Row:
    engine = endless_engine(model, tokenizer)
    sampling = Sampling(1.0, 1.0, length, seed=0)
    calls = {
        "ours": lambda: engine.generate([prompt], group, sampling),
        "generate": lambda: by_generate(model, prompt, group, length),
        "expanded": lambda: by_generate(model, prompt, group, length, expanded=True),
    }
    engine.generate(
        [prompt[:8]], group, Sampling(1.0, 1.0, 2, seed=0)
    )  # the first call checks shared parts on this model
    print(f"P={len(prompt)} C={length} G={group}", flush=True)
    return row(alternate(calls, repeats, clock), "ours", P=len(prompt), C=length, G=group)


def add_vllm(rows: list[Row], python: str, folder: Path, prompt: list[int], repeats: int, clock: str) -> None:
    """Add vLLM's median time for the size of each row, by the same clock; vLLM runs in one separate process."""
    lengths = [line["C"] for line in rows]
    arguments = json.dumps([str(folder), prompt, lengths, rows[0]["G"], repeats, clock])
    environment = os.environ | {"VLLM_ENABLE_V1_MULTIPROCESSING": "0"}  # otherwise the clock would not see its engine
    command = [python, "-c", VLLM]
    done = subprocess.run(command, input=arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    times = json.loads(next(line for line in done.stdout.splitlines() if line.startswith("TIMES"))[6:])
    for line in rows:
        line["vllm s"] = round(median(times[str(line["C"])]), 2)
        line["vllm / ours"] = round(line["vllm s"] / line["ours s"], 2)


def profile(model: Any, tokenizer: Any, prompt: list[int], length: int, group: int) -> None:
    """Time by operator: first of the prefill with one token, then with all C tokens."""
    engine = endless_engine(model, tokenizer)
    engine.generate([prompt[:8]], group, Sampling(1.0, 1.0, 2, seed=0))
    for limit in (1, length):
        print(f"P={len(prompt)} C={limit} G={group}")
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
            engine.generate([prompt], group, Sampling(1.0, 1.0, limit, seed=0))
        print(found.key_averages().table(sort_by="self_cpu_time_total", row_limit=12, max_name_column_width=50))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=model_folder)
    parser.add_argument("--prompt", type=int, default=2048)
    parser.add_argument("--completions", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--vllm-python")
    parser.add_argument("--output", type=Path, default=Path("runs/benchmarks"))
    args = parser.parse_args()
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    prompt = random_prompt(model.config.vocab_size, args.prompt)
    if args.profile:
        profile(model, tokenizer, prompt, args.completions[0], args.group)
        sys.exit()
    rows = [
        measure(model, tokenizer, prompt, length, group=args.group, repeats=args.repeats, clock=args.clock)
        for length in args.completions
    ]
    if args.vllm_python:
        add_vllm(rows, args.vllm_python, args.model, prompt, args.repeats, args.clock)
    save(rows, args.output, "rollout", x="C")


if __name__ == "__main__":
    main()
