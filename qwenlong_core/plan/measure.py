"""Measure this machine's rates, in about a minute: the kernels of the project's own steps, at a model's own sizes.

The GPU's or the CPU's clock is read around each kernel, several times, and the median counts. Links between devices are
measured where there are two; otherwise they stay as assumed. Run by hand::

    python -m qwenlong_core.plan.measure '{"model": {"name": "smollm2-135m"}, "folder": ".qwenlong/machines"}'
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from qwenlong_core.generation.packed_weights import pack_weights
from qwenlong_core.generation.sampling import draw
from qwenlong_core.plan.flops import Tokens, causal
from qwenlong_core.plan.machine import ASSUMED, Machine, assumed_cpu, host_memory, kind_of_gpu, save_rates
from qwenlong_core.plan.models import shape_of
from qwenlong_core.plan.passes import OPERATIONS, training_work
from qwenlong_core.plan.shapes import Shape
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.training.logprobs.fast_linear import product, use_fast_linear
from qwenlong_core.training.logprobs.merged import flash, flash_backward

_REPEATS = 5
_SHALLOW, _DEEP = 2, 6
_FILE_BYTES = 256 * 2**20


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _dtype() -> torch.dtype:
    return torch.bfloat16 if torch.cuda.is_available() else torch.float32


def _tokens() -> int:
    return 8192 if torch.cuda.is_available() else 1024


def seconds_of(call: Callable[[], object], repeats: int = _REPEATS) -> float:
    """Median seconds of a call, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        _wait()
        start = time.perf_counter()
        call()
        _wait()
        times.append(time.perf_counter() - start)
    return median(times)


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _random(*size: int) -> Tensor:
    return torch.randn(*size, device=_device(), dtype=_dtype())


def _matrices(shape: Shape) -> list[Tensor]:
    """One layer's weights, ``[out, in]``."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    sizes = [(queries, shape.hidden), (keys, shape.hidden), (keys, shape.hidden), (shape.hidden, queries)]
    sizes += [(shape.intermediate, shape.hidden)] * 2 + [(shape.hidden, shape.intermediate)]
    return [_random(*size) for size in sizes]


def products_rate(shape: Shape) -> float:
    """FLOP/s of a layer's matrix products, forward and backward."""
    weights, tokens = _matrices(shape), _tokens()
    rows = {size: _random(tokens, size) for size in {n for weight in weights for n in weight.shape}}

    def once() -> None:
        for weight in weights:
            out, into = weight.shape
            product(rows[into], weight)
            product(rows[out], weight.t())
            product(rows[out].t(), rows[into].t())

    return 6 * tokens * sum(weight.numel() for weight in weights) / seconds_of(once)


def peak_rate() -> float:
    """FLOP/s of one large square product."""
    size = 8192 if torch.cuda.is_available() else 1536
    left, right = _random(size, size), _random(size, size)
    return 2 * size**3 / seconds_of(lambda: product(left, right))


def attention_rates(shape: Shape) -> tuple[float, float]:
    """FLOP/s of flash attention over one causal row, forward and backward."""
    tokens, scale = _tokens(), shape.head**-0.5
    query = _random(1, shape.heads, tokens, shape.head)
    key, value = (_random(1, shape.kv_heads, tokens, shape.head) for _ in range(2))
    output, lse = flash(query, key, value, True, scale)
    once = 2 * causal(tokens) * shape.heads * shape.head
    there = seconds_of(lambda: flash(query, key, value, True, scale))
    back = seconds_of(lambda: flash_backward(output, query, key, value, output, lse, causal=True, scale=scale))
    return 2 * once / there, 5 * once / back


def _model(shape: Shape, layers: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head,
        vocab_size=128,
        tie_word_embeddings=True,
        attn_implementation="sdpa",
    )
    with torch.device(_device()):
        model = LlamaForCausalLM(config).to(_dtype())
    use_fast_linear(model)
    return model


def _a_layer(shape: Shape, run: Callable[[LlamaForCausalLM], object]) -> float:
    """Seconds that one more layer adds to a run of the model."""
    shallow, deep = _model(shape, _SHALLOW), _model(shape, _DEEP)
    return max(0.0, seconds_of(lambda: run(deep)) - seconds_of(lambda: run(shallow))) / (_DEEP - _SHALLOW)


def operation_seconds() -> float:
    """Seconds that an operation takes where there is nothing to compute: a pass over one token of a narrow model."""
    narrow = Shape(layers=1, hidden=64, intermediate=128, heads=4, kv_heads=2, head=16, vocabulary=128, tied=True)
    ids = torch.ones(1, 1, dtype=torch.long, device=_device())

    @torch.no_grad()
    def run(model: LlamaForCausalLM) -> None:
        model.model(ids, use_cache=False)

    return _a_layer(narrow, run) / OPERATIONS


def elementwise_rate(shape: Shape, machine: Machine) -> float:
    """Bytes a second of what is no product in a layer's forward and backward: what is left of their time."""
    count = _tokens()
    tokens = Tokens(count, causal(count), 0)
    ids = torch.ones(1, count, dtype=torch.long, device=_device())

    def run(model: LlamaForCausalLM) -> None:
        model.model(ids, use_cache=False).last_hidden_state.sum().backward()

    work = training_work(shape, tokens, _dtype().itemsize, checkpointing=False) * (1 / shape.layers)
    counted = work.flops.products / machine.products + work.flops.attention / machine.attention
    counted += work.flops.attention_backward / machine.attention_backward
    counted += 0.0 if machine.is_gpu else work.operations * machine.operation
    left = _a_layer(shape, run) - counted
    # On a noisy machine nothing may be left; a plain copy is then the best that is known.
    return work.touched / left if left > 0 else copy_rate()


def copy_rate() -> float:
    """Bytes a second that are read and written by a copy within the device."""
    source = _random(64 * 2**20)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_of(lambda: target.copy_(source))


def reading_rate(shape: Shape) -> float:
    """Bytes a second at which a few rows are multiplied by all weights of some layers, as decoding does."""
    model = _model(shape, _DEEP)
    linears = [module for module in model.model.modules() if isinstance(module, torch.nn.Linear)]
    packed = pack_weights(model, 4)
    names = {id(module): f"{name}.weight" for name, module in model.named_modules()}
    weights = [packed.get(names[id(module)], module.weight) for module in linears]
    rows = {module.in_features: _random(4, module.in_features) for module in linears}

    @torch.no_grad()
    def once() -> None:
        for module, weight in zip(linears, weights, strict=True):
            torch.nn.functional.linear(rows[module.in_features], weight)

    return sum(module.weight.nbytes for module in linears) / seconds_of(once)


def drawing_seconds(shape: Shape) -> float:
    """Seconds to draw a token from one row of logits, a number of the vocabulary."""
    logits, uniform = _random(4, shape.vocabulary).float(), torch.rand(4, dtype=torch.float64)
    return seconds_of(lambda: draw(logits, 1.0, 1.0, uniform)) / 4 / shape.vocabulary


def disk_rates(folder: Path) -> tuple[float, float]:
    """Bytes a second of writing a file through to the disk, and of its SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    path, block = folder / "measure.tmp", os.urandom(_FILE_BYTES // 16) * 16
    try:
        start = time.perf_counter()
        with path.open("wb") as file:
            file.write(block)
            file.flush()
            os.fsync(file.fileno())
        written = time.perf_counter() - start
    finally:
        path.unlink(missing_ok=True)
    start = time.perf_counter()
    hashlib.sha256(block).hexdigest()
    return _FILE_BYTES / written, _FILE_BYTES / (time.perf_counter() - start)


def _link_rates(assumed: Machine) -> tuple[float, float]:
    """Bytes a second to the host and to a second GPU."""
    if not torch.cuda.is_available():
        return assumed.host_copy, assumed.link
    here = torch.empty(2**28, dtype=torch.uint8, device="cuda:0")
    host = torch.empty(2**28, dtype=torch.uint8, pin_memory=True)
    to_host = here.nbytes / seconds_of(lambda: host.copy_(here))
    if torch.cuda.device_count() < 2:
        return to_host, assumed.link
    there = torch.empty_like(here, device="cuda:1")
    return to_host, here.nbytes / seconds_of(lambda: there.copy_(here))


def measure(shape: Shape, folder: Path) -> Machine:
    """This machine's rates at a model's sizes. Nothing else should run meanwhile.

    Args:
        shape: The model's.
        folder: Where a file of 256 MB may be written for a moment: the work folder's disk.
    """
    kind = kind_of_gpu(torch.cuda.get_device_name()) if torch.cuda.is_available() else "cpu"
    assumed = assumed_cpu() if kind == "cpu" else ASSUMED.get(kind, ASSUMED["a100"])
    rate = products_rate(shape)
    there, back = attention_rates(shape)
    disk, seal = disk_rates(folder)
    host, link = _link_rates(assumed)
    machine = assumed.model_copy(
        update={
            "name": kind,
            "source": f"measured {datetime.date.today().isoformat()} with {torch.get_num_threads()} threads",
            "memory": float(torch.cuda.mem_get_info()[1]) if torch.cuda.is_available() else host_memory(),
            "peak": assumed.peak if kind in ASSUMED else max(rate, peak_rate()),
            "products": rate,
            "attention": there,
            "attention_backward": back,
            "operation": operation_seconds(),
            "reading": reading_rate(shape) if kind == "cpu" else copy_rate(),
            "drawing": drawing_seconds(shape) if kind == "cpu" else 0.0,
            "disk": disk,
            "seal": seal,
            "host_copy": host,
            "link": link,
        }
    )
    return machine.model_copy(update={"elementwise": elementwise_rate(shape, machine)})


def main(asked: str) -> None:
    """Measure, keep the rates and print the file's name."""
    job = json.loads(asked)
    folder = Path(job["folder"])
    print(save_rates(measure(shape_of(ModelSettings.model_validate(job["model"])), folder), folder))


if __name__ == "__main__":
    main(sys.argv[1])
