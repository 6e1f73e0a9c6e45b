"""Linear layers in oneDNN's own weight layout, for sampling on a CPU.

For every token, decoding multiplies a few rows by every weight of the model. PyTorch's float32 ``linear`` is slow with
two rows or more; oneDNN is faster once the weight is in its own layout.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear


class PackedWeight(Tensor):
    """A weight that :func:`torch.nn.functional.linear` uses in its packed form."""

    packed: Tensor

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: Sequence[Any] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        # Without this the calls below would come back here. All functions but linear see the plain weight.
        with torch._C.DisableTorchFunctionSubclass():
            if func is linear and isinstance(args[1], PackedWeight):
                return _packed_linear(*args, **(kwargs or {}))
            return func(*args, **(kwargs or {}))


def _packed_linear(rows: Tensor, weight: PackedWeight, bias: Tensor | None = None) -> Tensor:
    result: Tensor = torch.ops.mkldnn._linear_pointwise(rows, weight.packed, bias, "none", [], "")
    return result


def pack_weights(model: nn.Module, rows: int) -> dict[str, Tensor]:
    """The model's linear weights, packed for products with about ``rows`` rows, by parameter name.

    Pass them to ``torch.func.functional_call``, which leaves the model itself unchanged. They take as much memory as
    the weights. The result is empty on other devices and for other dtypes, where packing gains nothing.
    """
    # Builds without oneDNN lack the operators below.
    if not torch._C._has_mkldnn:
        return {}
    packed: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear):
            continue
        weight = module.weight.detach()
        if weight.device.type == "cpu" and weight.dtype == torch.float32:
            view = weight.as_subclass(PackedWeight)
            view.packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            packed[f"{name}.weight"] = view
    return packed
