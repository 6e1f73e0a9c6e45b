"""FLOPs of the passes over packed rows, from the model's shape alone.

A multiplication and an addition count as two. Softmax, norms and activations are left out, as is usual.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qwenlong_core.plan.shapes import Shape

PEAKS = {"h100": 989e12, "h200": 989e12, "a100": 312e12}
"""Dense bfloat16 FLOP/s by the data sheets; MFU refers to them."""


def causal(tokens: float) -> float:
    """Pairs of query and key when each of so many tokens sees itself and those before it."""
    return tokens * (tokens + 1) / 2


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a pass computes on: rows of any number."""

    total: float
    """Tokens that go through the layers."""
    pairs: float
    """Pairs of query and key that attend to each other."""
    labelled: float
    """Tokens whose logits are computed."""

    def __mul__(self, factor: float) -> Tokens:
        return Tokens(self.total * factor, self.pairs * factor, self.labelled * factor)


def shared_row(prompt: float, completions: Sequence[float]) -> Tokens:
    """A group in one row: the prompt once, its last token in every branch (see ``training/logprobs/packing.py``)."""
    prefix = prompt - 1
    pairs = causal(prefix) + sum(tokens * prefix + causal(tokens) for tokens in completions)
    return Tokens(prefix + sum(completions), pairs, sum(completions))


def separate_rows(prompt: float, completions: Sequence[float]) -> Tokens:
    """A group in a row for each completion."""
    whole = [prompt + tokens for tokens in completions]
    return Tokens(sum(whole), sum(map(causal, whole)), sum(completions))


@dataclass(frozen=True, slots=True)
class Flops:
    """FLOPs by the kind of kernel."""

    products: float = 0.0
    """Matrix products of the layers and the output head."""
    attention: float = 0.0
    attention_backward: float = 0.0

    @property
    def total(self) -> float:
        """All of them."""
        return self.products + self.attention + self.attention_backward

    def __add__(self, other: Flops) -> Flops:
        return Flops(
            self.products + other.products,
            self.attention + other.attention,
            self.attention_backward + other.attention_backward,
        )

    def __mul__(self, factor: float) -> Flops:
        return Flops(self.products * factor, self.attention * factor, self.attention_backward * factor)


def forward(shape: Shape, tokens: Tokens) -> Flops:
    """One pass without a gradient. Attention is two products: queries by keys, weights by values."""
    return Flops(
        products=2 * tokens.total * shape.layers * shape.layer_products + 2 * tokens.labelled * shape.embedding,
        attention=2 * 2 * tokens.pairs * shape.layers * shape.heads * shape.head,
    )


def backward(shape: Shape, tokens: Tokens, *, checkpointing: bool, frozen: bool = False) -> Flops:
    """The backward of one pass, with what it computes again.

    Flash attention computes its weights again and has five products. The output head computes its logits again in any
    case. Checkpointing computes each layer again but for the MLP's last product, whose result nothing in the backward
    needs: ``torch.utils.checkpoint`` stops before it. What experts return is needed: it is multiplied by their weights.
    Frozen weights (LoRA) have no gradient, which is one of a product's two in the backward.
    """
    wanted = 1 if frozen else 2
    layers = 2 * tokens.total * shape.layers * shape.layer_products
    head = 2 * tokens.labelled * shape.embedding
    once = 2 * tokens.pairs * shape.layers * shape.heads * shape.head
    last = 0.0 if shape.experts else 2 * tokens.total * shape.layers * shape.hidden * shape.intermediate
    again = layers - last if checkpointing else 0.0
    return Flops(
        products=wanted * layers + again + (wanted + 1) * head,
        attention=2 * once if checkpointing else 0.0,
        attention_backward=5 * once,
    )


def model_flops(shape: Shape, tokens: Tokens, *, frozen: bool = False) -> float:
    """What a forward and a backward need without computing anything twice: the numerator of MFU."""
    once = forward(shape, tokens)
    return 3 * once.total - (once.products if frozen else 0)
