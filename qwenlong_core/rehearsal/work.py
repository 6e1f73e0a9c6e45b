"""What an operation costs beside its result: floating-point operations, bytes that are sent, memory inside a kernel."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwenlong_core.rehearsal.device import PRODUCTS, tree_leaves

_aten, _c10d = torch.ops.aten, torch.ops.c10d
_FORWARD = (
    _aten._scaled_dot_product_flash_attention.default,
    _aten._scaled_dot_product_flash_attention_for_cpu.default,
)
_CUDA_BACKWARD = _aten._scaled_dot_product_flash_attention_backward.default
_CPU_BACKWARD = _aten._scaled_dot_product_flash_attention_for_cpu_backward.default

_IN_A_COPY = (_c10d._allgather_base_.default, _c10d._reduce_scatter_base_.default)


def _causal(func: Any, args: Any) -> bool:
    """``is_causal`` of a flash call; an argument that equals its default is left out."""
    place = [argument.name for argument in func._schema.arguments].index("is_causal")
    return bool(args[place]) if len(args) > place else False


def _pairs(query: Tensor, key: Tensor, causal: bool) -> int:
    """Pairs of a query and a key that it sees, over batch and heads."""
    queries, keys = query.size(-2), key.size(-2)
    seen = queries * (queries + 1) // 2 if causal else queries * keys
    return math.prod(query.shape[:-2]) * seen


def flops_of(func: Any, args: Any) -> tuple[str, int]:
    """Kind (``matmul`` or ``attention``) and number of floating-point operations; a multiply-add is two.

    Products are counted by torch's own formulas; they know no oneDNN, and count all of a causal call's pairs.
    """
    name = str(func.overloadpacket).removesuffix("_")  # in place or not
    if name in PRODUCTS:
        return "matmul", PRODUCTS[name](*(x for x in args if isinstance(x, Tensor)))
    if name == "aten._grouped_mm":  # each token's row by the matrix of its expert, or a gradient of that
        return "matmul", 2 * args[0].numel() * args[1].size(-1)
    if name == "mkldnn._linear_pointwise":
        return "matmul", 2 * args[0].numel() * args[1].size(0)
    if func in _FORWARD:  # the scores, and their product with the values
        return "attention", 4 * _pairs(args[0], args[1], _causal(func, args)) * args[0].size(-1)
    if func in (_CUDA_BACKWARD, _CPU_BACKWARD):  # the scores again; gradients of weights, values, queries, keys
        return "attention", 10 * _pairs(args[1], args[2], _causal(func, args)) * args[1].size(-1)
    return "", 0


def inside_of(func: Any, args: Any) -> int:
    """Bytes that a kernel allocates while it runs, beside its results.

    FlashAttention's backward on CUDA sums the queries' gradient in float32 and, where heads share keys, writes the
    gradients of keys and values for every head first (``flash_api.cpp`` in torch). gloo, which is taken on a CPU,
    gathers into a copy of the result and reduces in a copy of what is given (``ProcessGroupGloo.cpp``; measured).
    """
    if func in _IN_A_COPY and args[0].device.type == "cpu":
        return max(int(args[0].nbytes), int(args[1].nbytes))
    if func is not _CUDA_BACKWARD:
        return 0
    query, key = args[1], args[2]
    batch, heads, queries, width = query.shape
    rows = -(-queries // 128) * 128
    summed: int = batch * heads * rows * (-(-width // 32) * 32 + 1) * 4
    expanded: int = 2 * batch * heads * key.size(2) * width * key.element_size() if key.size(1) != heads else 0
    return summed + expanded


def sent_of(func: Any, args: Any) -> tuple[str, int]:
    """Name of a collective and the bytes that a rank sends, if every rank sends each byte once to all who need it."""
    name = func._schema.name.removeprefix("c10d::").strip("_")
    group = next((x for x in args if isinstance(x, torch.ScriptObject) and "ProcessGroup" in str(x._type())), None)
    size = dist.ProcessGroup.unbox(group).size() if group is not None else 1
    first, second = (sum(x.nbytes for x in tree_leaves(part) if isinstance(x, Tensor)) for part in (args[0], args[1]))
    others = size - 1
    if name.startswith(("allgather", "_allgather")):
        return "all-gather", second * others
    if name.startswith("reduce_scatter"):
        return "reduce-scatter", second * others // size
    if name.startswith("alltoall"):
        return "all-to-all", second * others // size
    if name.startswith("allreduce"):
        return "all-reduce", 2 * first * others // size
    return name, first
