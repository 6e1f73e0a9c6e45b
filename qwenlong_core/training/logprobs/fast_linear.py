"""Linear layers computed by oneDNN, for training on a CPU.

PyTorch multiplies float32 matrices with MKL, which uses only AVX2 on processors that are not Intel's. oneDNN uses
AVX-512 where it exists and takes half the time there, forward and backward (``benchmarks/update.py``). Weights keep
their usual layout, since training changes them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter


def product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``rows [..., I] @ weight [O, I].T + bias [O]`` without a gradient, by oneDNN if both are float32 on a CPU."""
    floats = rows.dtype == weight.dtype == torch.float32
    if not (floats and rows.device.type == "cpu" and rows.numel() and torch._C._has_mkldnn):
        return torch.nn.functional.linear(rows, weight, bias)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight, bias, "none", [], "")
    return result


class _Linear(torch.autograd.Function):
    """Multiply rows ``[..., I]`` by a weight ``[O, I]`` and add a bias ``[O]``."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return product(rows, weight, bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, weight = ctx.saved_tensors
        to_rows, to_weight, to_bias = ctx.needs_input_grad
        flat = gradient.flatten(0, -2)
        return (
            product(gradient, weight.t()) if to_rows else None,
            product(flat.t(), rows.flatten(0, -2).t()) if to_weight else None,
            flat.sum(0) if to_bias else None,
        )


class FastLinear(nn.Linear):
    """``nn.Linear`` that computes float32 products with oneDNN and leaves everything else to PyTorch."""

    def forward(self, input: Tensor) -> Tensor:
        """See ``nn.Linear``."""
        # A DTensor (FSDP2) or another subclass of Tensor must go through PyTorch's dispatch.
        plain = type(self.weight) is Parameter and self.weight.device.type == "cpu"
        floats = input.dtype == self.weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
        if not (plain and floats and input.numel() and input.dim() > 1):
            return super().forward(input)
        apply: Callable[..., Tensor] = _Linear.apply
        return apply(input, self.weight, self.bias)


def use_fast_linear(model: nn.Module) -> None:
    """Turn a model's linear layers into :class:`FastLinear`, if PyTorch was built with oneDNN.

    Only the class of each module changes, so parameter names, weights and checkpoints stay the same.
    """
    if not torch._C._has_mkldnn:
        return
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = FastLinear
