"""Sequence parallelism: the ranks of a span compute one packed row together (Ulysses, arXiv 2309.14509).

All ranks of a span hold the same rows. In a forward, each runs the model on its own chunk of a row's tokens. Only
attention mixes tokens, so around it the ranks exchange: each gets all tokens of some heads, attends, and gives the
tokens of the others back. The log-probs are gathered at the end, so that the loss sees the whole row on every rank::

    tokens of the row   | rank 0 | rank 1 |      embedding, projections, MLP, output head: own tokens, all heads
    queries, keys, values   `-> exchange <-'     one all-to-all
    heads               | rank 0 | rank 1 |      attention: all tokens, own heads
    its output              `-> exchange <-'     one all-to-all
    tokens of the row   | rank 0 | rank 1 |
    log-probs               `-> gather <-'       one all-reduce

A row of N tokens is cut into chunks that differ by one token at most; nothing is padded. Every exchange has its exact
adjoint as its backward. TRL counts a row once for each rank that holds it, both in the sum over ranks and in the
denominator, so the gradient that the ranks average is the one of a single process, without a factor.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from qwenlong_core.spans import key_heads_in
from qwenlong_core.training.logprobs.packing import Layout


@dataclass(frozen=True, slots=True)
class Span:
    """Neighbouring ranks that hold the same rows."""

    ranks: dist.ProcessGroup
    rank: int
    """This process's place in the span."""
    size: int
    """Ranks in the span, S."""

    def from_first(self, values: Tensor) -> Tensor:
        """The values of the span's first rank, on each of its ranks."""
        values = values.contiguous()
        dist.broadcast(values, group=self.ranks, group_src=0)
        return values


def make_span(size: int) -> Span | None:
    """The span of this process, or ``None`` for a size of 1. Every process has to call it."""
    if size == 1:
        return None
    make: Any = dist.new_subgroups  # untyped in torch
    ranks, _ = make(group_size=size)
    return Span(ranks, dist.get_rank(ranks), size)


@dataclass(frozen=True, slots=True)
class Share:
    """A packed row whose tokens are cut over the ranks of a span."""

    layout: Layout
    span: Span

    @property
    def counts(self) -> list[int]:
        """Tokens of each rank."""
        each, more = divmod(self.layout.tokens, self.span.size)
        return [each + (rank < more) for rank in range(self.span.size)]

    @property
    def own(self) -> slice:
        """This rank's tokens."""
        counts = self.counts
        start = sum(counts[: self.span.rank])
        return slice(start, start + counts[self.span.rank])

    def gather(self, values: Tensor) -> Tensor:
        """The whole row's values ``[1, N]`` from each rank's own ``[1, n]``."""
        return _apply(_Gather, values, self)

    def to_heads(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All tokens of this rank's heads, from all heads of its tokens.

        Args:
            query: ``[1, H, n, D]``.
            key: ``[1, K, n, D]``; its heads are repeated where there are too few for the ranks.
            value: Same shape as ``key``.

        Returns:
            ``[1, H / S, N, D]`` and twice ``[1, lcm(K, S) / S, N, D]``.
        """
        size, key_heads = self.span.size, key.size(1)
        repeats = key_heads_in(size, key_heads) // key_heads
        if repeats > 1:
            key, value = (x.repeat_interleave(repeats, dim=1) for x in (key, value))
        # [S, n, heads / S, D]: rank by rank its queries, keys and values. One exchange in place of three, and the only
        # copy is the buffer that is sent.
        blocks = [x[0].view(size, -1, *x.shape[2:]).transpose(1, 2) for x in (query, key, value)]
        widths = [block.size(2) for block in blocks]
        whole = _apply(_ToHeads, torch.cat(blocks, dim=2), self)  # [N, heads / S, D]
        q, k, v = (part.transpose(0, 1)[None] for part in torch.split(whole, widths, dim=1))
        return q, k, v

    def to_tokens(self, states: Tensor) -> Tensor:
        """The inverse for attention's output: ``[1, H, n, D]`` from ``[1, H / S, N, D]``."""
        own = _apply(_ToTokens, states[0].transpose(0, 1), self)  # [S, n, H / S, D]
        return own.transpose(0, 1).flatten(1, 2).transpose(0, 1)[None]


def _apply(function: Any, states: Tensor, share: Share) -> Tensor:
    """``function.apply``, which is untyped in torch."""
    result: Tensor = function.apply(states, share)
    return result


def _send_heads(states: Tensor, share: Share) -> Tensor:
    """``[S, n, h, D]`` to ``[N, h, D]``: block s of the heads goes to rank s. Tokens arrive in the row's order."""
    received = states.new_empty(share.layout.tokens, *states.shape[2:])
    sent, own = states.contiguous().flatten(0, 1), states.size(1)
    dist.all_to_all_single(received, sent, share.counts, [own] * share.span.size, group=share.span.ranks)
    return received


def _send_tokens(states: Tensor, share: Share) -> Tensor:
    """The inverse, ``[N, h, D]`` to ``[S, n, h, D]``."""
    own = share.counts[share.span.rank]
    received = states.new_empty(share.span.size * own, *states.shape[1:])
    dist.all_to_all_single(received, states.contiguous(), [own] * share.span.size, share.counts, group=share.span.ranks)
    return received.view(share.span.size, own, *states.shape[1:])


class _ToHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return _send_heads(states, share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _send_tokens(gradient, ctx.share), None


class _ToTokens(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: Tensor, share: Share) -> Tensor:
        ctx.share = share
        return _send_tokens(states, share)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return _send_heads(gradient, ctx.share), None


class _Gather(torch.autograd.Function):
    """Every rank's loss depends on all chunks, so the backward sums over the ranks before each takes its own."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, share: Share) -> Tensor:
        ctx.share = share
        whole = values.new_zeros(1, share.layout.tokens)
        whole[:, share.own] = values
        dist.all_reduce(whole, group=share.span.ranks)
        return whole

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        gradient = gradient.clone()
        dist.all_reduce(gradient, group=ctx.share.span.ranks)
        return gradient[:, ctx.share.own], None
