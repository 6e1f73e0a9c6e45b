"""Integers of fake tensors: masks, positions and lengths are computed for real beside the fakes.

A fake tensor has a shape and no values, but a step asks for some: how many tokens a completion has, which positions
have a label. All of these follow from integers that are known at the start, so every operation on integers alone runs
twice: on the fakes, and on real CPU tensors, their twins. Where a number that is not known is asked for after all (a
mean log-prob for the log), it is taken to be 1.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.rehearsal.device import (
    DynamicOutputShapeException,
    FakeTensor,
    TorchDispatchMode,
    tree_leaves,
    tree_map,
    unset_fake_temporarily,
)

_aten = torch.ops.aten
_BY_MASK = {_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default, _aten._unsafe_index.Tensor}
_BETWEEN = ("torch/_dynamo/eval_frame.py", "torch/_compile.py", "torch/_ops.py", "ledger.py", "known.py")
"""Files whose frames stand between an operation and our modes."""
_INTEGER_FACTORIES = ("arange", "full", "randperm", "scalar_tensor", "randint")
"""Operations without tensors that may make integers without being told to by a ``dtype``."""
_TO_BOOL = {_aten.equal.default, _aten.allclose.default, _aten.is_nonzero.default}


def twin(tensor: Tensor) -> Tensor | None:
    """The real values of a tensor of integers; ``None`` if they are not known."""
    return getattr(tensor, "known_values", None) if isinstance(tensor, FakeTensor) else tensor


def _set_twin(fake: Any, value: Tensor | None) -> None:
    fake.known_values = value


def values(tensor: Tensor) -> Tensor:
    """The twin, or ones."""
    known = twin(tensor)
    return torch.ones(tensor.shape, dtype=tensor.dtype) if known is None else known


def _counts(tensor: Tensor) -> bool:
    return not (tensor.is_floating_point() or tensor.is_complex())


class Known(TorchDispatchMode):
    """Enter it inside a ``FakeTensorMode``."""

    def __enter__(self) -> Known:
        FakeTensor.tolist = lambda fake: _real(lambda: values(fake).tolist())  # type: ignore[method-assign,assignment]
        super().__enter__()
        return self

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented  # it comes back with its local tensors
        if func is _aten._local_scalar_dense.default:
            return _real(lambda: values(args[0]).reshape(-1)[0].item())
        if func in _TO_BOOL:
            return _real(lambda: bool(func(*(values(x) if isinstance(x, Tensor) else x for x in args), **kwargs)))
        if func is _aten.add.Tensor and len(args) == 2 and _by_engine():
            return _accumulated(*args)
        if func in _BY_MASK:
            args = (args[0], [number for index in args[1] for number in _as_numbers(index)], *args[2:])
        return _with_twins(func, args, kwargs)


def _by_engine() -> bool:
    """Whether autograd's engine itself asks, and not the backward of an operation in Python."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.endswith(_BETWEEN):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_name == "_engine_run_backward"


def _accumulated(held: Tensor, arriving: Tensor) -> Tensor:
    """Two gradients of one tensor: The engine adds in place, but not to subclasses of Tensor, as fakes are."""
    if isinstance(held, Tensor) and held.shape == arriving.shape and held.dtype == arriving.dtype:
        return held.add_(arriving)
    return held + arriving


def _real(compute: Any) -> Any:
    with unset_fake_temporarily():
        return compute()


def _with_twins(func: Any, args: Any, kwargs: Any) -> Any:
    if func.namespace == "c10d":
        result = func(*args, **kwargs)
        _real(lambda: _exchange(args))
        return result
    real = _real(lambda: _on_twins(func, args, kwargs))
    try:
        result = func(*args, **kwargs)
    except DynamicOutputShapeException:
        result = _shaped_like(func, args, real)
    for fake, value in zip(tree_leaves(result), tree_leaves(real) if real is not None else [], strict=False):
        if isinstance(fake, FakeTensor) and _counts(fake):
            _set_twin(fake, value)
    if real is None:
        _forget_written(func, args, kwargs)
    return result


def _on_twins(func: Any, args: Any, kwargs: Any) -> Any:
    """The operation on real values, if all of its tensors are known integers."""
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    if any(not _counts(x) or twin(x) is None for x in tensors):
        return None
    floats = kwargs.get("dtype") in (None, torch.float32, torch.bfloat16, torch.float64, torch.float16)
    if not tensors and floats and not func._schema.name.endswith(_INTEGER_FACTORIES):
        return None
    options = dict(kwargs)
    if "device" in options:
        options["device"] = torch.device("cpu")
    options.pop("pin_memory", None)
    on_cpu = tree_map(lambda x: twin(x) if isinstance(x, Tensor) else x, (args, options))
    if func is _aten.lift_fresh.default:
        return on_cpu[0][0].clone()
    positional = tree_map(lambda x: torch.device("cpu") if isinstance(x, torch.device) else x, on_cpu[0])
    return func(*positional, **on_cpu[1])


def _forget_written(func: Any, args: Any, kwargs: Any) -> None:
    """Integers that were overwritten by something unknown are unknown."""
    if not func._schema.is_mutable:
        return
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            for tensor in tree_leaves(value):
                if isinstance(tensor, FakeTensor):
                    _set_twin(tensor, None)


def _as_numbers(index: Any) -> list[Any]:
    """A mask as the numbers of its entries, one tensor a dimension, which have a known shape."""
    if not (isinstance(index, FakeTensor) and index.dtype == torch.bool):
        return [index]
    return [_fake_of(numbers, index) for numbers in _real(lambda: values(index).nonzero().unbind(1))]


def _shaped_like(func: Any, args: Any, real: Any) -> Any:
    if func is _aten.masked_select.default:
        return args[0].new_empty(int(_real(lambda: values(args[1]).sum().item())))
    if real is None and func is _aten.nonzero.default:
        real = _real(lambda: values(args[0]).nonzero())
    if real is None:
        raise NotImplementedError(f"{func} has a shape that depends on unknown values")
    return tree_map(lambda value: _fake_of(value, args[0]), real)


def _fake_of(real: Tensor, like: Tensor) -> Tensor:
    fake = torch.empty(real.shape, dtype=real.dtype, device=like.device)
    _set_twin(fake, real)
    return fake


def _exchange(args: Any) -> None:
    """After a collective every rank is taken to hold what this one holds."""
    if len(args) < 2:
        return
    outputs = [x for x in tree_leaves(args[0]) if isinstance(x, FakeTensor) and _counts(x)]
    inputs = [x for x in tree_leaves(args[1]) if isinstance(x, FakeTensor) and _counts(x)]
    for output in outputs if inputs else []:
        source, target = twin(inputs[0]), twin(output)
        if source is None or target is None:
            _set_twin(output, None)
        else:
            flat = source.reshape(-1)
            target.copy_(flat.repeat(target.numel() // flat.numel()).view(target.shape))
