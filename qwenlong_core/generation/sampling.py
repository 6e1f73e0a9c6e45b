"""Draw tokens from logits: temperature, nucleus, and inverse-CDF sampling from given uniform numbers."""

from __future__ import annotations

import torch
from torch import Tensor

_HEAD = 256
"""Number of most likely tokens that are sorted first: they nearly always hold a trained model's nucleus."""


def _nucleus(probs: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Probabilities ``[B, K]`` in descending order, zero outside the nucleus, and their token ids."""
    size = _HEAD
    while True:
        head, ids = probs.topk(min(size, probs.size(-1)), dim=-1)
        if size >= probs.size(-1) or bool((head.sum(-1) >= top_p).all()):
            break
        size *= 8
    # A token belongs to the nucleus if the tokens before it do not fill it yet; so the first always does.
    before = head.cumsum(-1) - head
    return head.masked_fill(before >= top_p, 0.0), ids


def draw(logits: Tensor, temperature: float, top_p: float, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """Draw one token per row.

    Args:
        logits: ``[B, V]``.
        temperature: 0 takes the most likely token.
        top_p: Probability mass of the nucleus.
        uniform: ``[B]`` in [0, 1). A row's token is a function of its logits and this number.

    Returns:
        Token ids ``[B]`` and their log-probabilities ``[B]`` under the distribution they were drawn from (with
        temperature, restricted to the nucleus, renormalised). At temperature 0, under the plain softmax.
    """
    # In float32 the cumulative sum over a large vocabulary would be off by more than a rare token's probability.
    logits = logits.double()
    if temperature == 0:
        logprobs, tokens = logits.log_softmax(-1).max(-1)
        return tokens, logprobs
    probs = (logits / temperature).softmax(-1)
    ids: Tensor | None = None
    if top_p < 1:
        probs, ids = _nucleus(probs, top_p)
    cdf = probs.cumsum(-1)
    cdf = cdf / cdf[:, -1:]
    # right=True finds the first entry whose CDF exceeds u, which never has probability zero.
    index = torch.searchsorted(cdf, uniform.to(cdf).unsqueeze(-1), right=True)
    logprobs = (probs.gather(-1, index) / probs.sum(-1, keepdim=True)).log().squeeze(-1)
    return (index if ids is None else ids.gather(-1, index)).squeeze(-1), logprobs
