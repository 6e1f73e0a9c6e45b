"""Log-probs of a batch's completions, with the groups of a forward in one packed row where the model allows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.training.logprobs.attention import NAME, run_row, unsupported_reason
from qwenlong_core.training.logprobs.check import LIMITS, disagreement
from qwenlong_core.training.logprobs.packing import Layout, Packed, join, pack, pack_groups, unpack
from qwenlong_core.training.logprobs.span_check import require_cuttable
from qwenlong_core.training.logprobs.ulysses import Span

logger = logging.getLogger(__name__)

Pass = tuple[Tensor, Tensor | None, Tensor | None]
"""What TRL takes from a pass: log-probs ``[rows, tokens]``, entropies of the same shape where they are asked for, and
a router's loss, which is never trained on."""


CHECKED_PROMPT, CHECKED_COMPLETION = 512, 64
"""Tokens at the end of a prompt and at the start of its completions that are run on each rank of a span alone."""


def used_columns(attention_mask: Tensor) -> tuple[int, int]:
    """First and past-the-last column that any row uses, of rows ``[B, T]`` that are padded at their ends."""
    used = attention_mask.any(dim=0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def share_prompts(policy: Any, reference: Any, span: Span | None = None) -> bool:
    """Set the attention that runs a group's prompt once, on both models, and return whether it could be set.

    Args:
        policy: The model that is trained.
        reference: The model it is compared with, of the same kind; ``None`` without one.
        span: The ranks that are to compute a packed row together.

    Raises:
        ValueError: a span is given, and the model cannot share prompts or its heads cannot be dealt to the ranks.
    """
    if span is not None:
        require_cuttable(policy.config, type(policy), span.size)
    reason = unsupported_reason(policy)
    if reason is not None:
        logger.warning("%s runs a prompt once per completion: %s", type(policy).__name__, reason)
        return False
    for model in filter(None, (policy, reference)):
        model.set_attn_implementation(NAME)
    return True


class GroupPass:
    """Computes log-probs of completions; a run's old, reference and training passes all go through it.

    Args:
        accelerator: Autocast, device and processes.
        group_size: G; the rows of a group lie together.
        separate_rows: Log-probs with one row per completion: called with model, ids ``[B, T]``, mask
            ``[B, T]`` and the number of completion columns, then options by name.
        shares_prompts: Whether :func:`share_prompts` succeeded; otherwise all rows are separate.
        span: The ranks that compute a packed row together; ``None`` if each has rows of its own.
    """

    def __init__(
        self,
        accelerator: Any,
        group_size: int,
        separate_rows: Callable[..., Pass],
        *,
        shares_prompts: bool,
        span: Span | None = None,
    ) -> None:
        self.accelerator, self.group_size, self.span = accelerator, group_size, span
        self.shares_prompts = shares_prompts
        self.checked = False
        """Whether packed rows have been compared with separate rows in this run."""
        self._separate_rows = separate_rows

    def __call__(
        self, model: Any, ids: Tensor, mask: Tensor, columns: int, batch_size: int | None = None, **options: Any
    ) -> Pass:
        """Log-probs of the last ``columns`` tokens of each row.

        Args:
            model: The policy or the reference.
            ids: Token ids ``[B, T]``: prompts padded on the left, completions padded on the right.
            mask: 1 on tokens, ``[B, T]``.
            columns: Completion columns.
            batch_size: Rows per forward, a multiple of the group's size; ``None`` takes all at once.
            options: ``compute_entropy`` and TRL's other options.

        Raises:
            RuntimeError: packed rows differ from separate rows, on the first group that is trained on.
        """
        size = batch_size or len(ids)
        forwards = [
            self._forward(model, some_ids, some_mask, columns, **options)
            for some_ids, some_mask in zip(torch.split(ids, size), torch.split(mask, size))
        ]
        logps, entropies, _ = zip(*forwards)
        return torch.cat(logps), torch.cat(entropies) if entropies[0] is not None else None, None

    @torch.no_grad()
    def of_group(
        self, model: Any, prompt: Sequence[int], completions: Sequence[Sequence[int]]
    ) -> tuple[tuple[float, ...], ...]:
        """Log-probs of one prompt's completions, given as token ids: the values that a training pass computes."""
        longest = max(map(len, completions))
        rows = [[*prompt, *tokens, *[0] * (longest - len(tokens))] for tokens in completions]
        mask = [[1] * (len(prompt) + len(c)) + [0] * (longest - len(c)) for c in completions]
        ids, kept = (torch.tensor(value, device=self.accelerator.device) for value in (rows, mask))
        logps, _, _ = self(model, ids, kept, longest)
        return tuple(tuple(row[: len(c)]) for row, c in zip(logps.tolist(), completions))

    def _forward(self, model: Any, ids: Tensor, mask: Tensor, columns: int, **options: Any) -> Pass:
        """One run of the model: under FSDP2 every process has to run it equally often, whatever its groups share."""
        if not self.shares_prompts:
            return self._separate(model, ids, mask, columns, **options)
        if torch.is_grad_enabled() and not self.checked:
            self._check(model, ids, mask, columns)
        packed, order = pack_groups(self._groups(ids, mask, columns))
        if self._too_short(packed):
            return self._separate(model, ids, mask, columns, **options)
        # Where the groups of the batch lie in the row.
        places = torch.tensor(order, device=ids.device).argsort()
        logps, *entropies = (
            self._spread(values, packed, columns).unflatten(0, (len(order), -1))[places].flatten(0, 1)  # type: ignore[no-untyped-call]
            for values in self._run(model, packed, *(["entropy"] if options.get("compute_entropy") else []))
        )
        return logps, entropies[0] if entropies else None, None

    def _groups(self, ids: Tensor, mask: Tensor, columns: int) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Each group's prompt, completions and their mask, without padding around the group."""
        found = []
        for some, kept in zip(torch.split(ids, self.group_size), torch.split(mask.bool(), self.group_size)):
            longest = int(kept[:, -columns:].sum(1).max())
            stop = ids.size(1) - columns
            prompt = some[0, :stop][kept[0, :stop]]
            found.append((prompt, some[:, stop : stop + longest], kept[:, stop : stop + longest]))
        return found

    def _spread(self, values: Tensor, packed: Packed, columns: int) -> Tensor:
        """Values of a row as ``[rows, columns]``."""
        found = unpack(values, packed.layout)
        return torch.nn.functional.pad(found, (0, columns - found.size(1)))

    def _separate(self, model: Any, ids: Tensor, mask: Tensor, columns: int, **options: Any) -> Pass:
        """One row per completion, without the columns that no row uses."""
        # The rows are padded to the longest prompt and completion of the whole batch, so a forward over
        # some of them often has empty columns at both ends.
        start, end = used_columns(mask)
        unused = ids.size(1) - end
        logps, entropies, _ = self._separate_rows(
            model, ids[:, start:end], mask[:, start:end], columns - unused, **options
        )
        pad = torch.nn.functional.pad
        return pad(logps, (0, unused)), None if entropies is None else pad(entropies, (0, unused)), None

    def _too_short(self, packed: Packed) -> bool:
        """Whether a row is not packed after all: each rank of a span needs a token, and an empty forward has few."""
        return self.span is not None and packed.layout.tokens < self.span.size

    def _run(self, model: Any, packed: Packed, *more: str) -> list[Tensor]:
        """Log-probs ``[1, N]`` of a packed row, and what else of the head is asked for; with a span, its ranks compute
        it together. TRL's head on a reference computes log-probs only."""
        with self.accelerator.autocast():
            return run_row(model, packed, self.span, "log_probs", *more)

    def _whole_rows(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> Tensor:
        """Log-probs ``[rows, columns]`` with one row per completion, each over all ranks of the span."""
        rows = zip(torch.split(ids, 1), torch.split(mask, 1))
        return torch.cat([self._whole_row(model, *row, columns) for row in rows])

    def _whole_row(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> Tensor:
        kept = mask.bool()
        prompt, completion = ids[:, :-columns][kept[:, :-columns]], ids[:, -columns:][kept[:, -columns:]]
        packed = pack(prompt, completion[None], torch.ones_like(completion[None]))
        if self._too_short(packed):
            return self._separate(model, ids, mask, columns)[0]
        row = replace(packed, layout=Layout(packed.layout.tokens))
        (logps,) = self._run(model, row)
        return torch.nn.functional.pad(logps[:, packed.layout.prefix :], (0, columns - len(completion)))

    @torch.no_grad()
    def _check(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        """Compare the first group of every process with its separate rows: G more forwards, once in a run.

        Over a span the rows are long: they are cut over its ranks as well, without branches. Both sides then go
        through the same exchange, so the end of the prompt is compared with rows that are not cut, too.

        Raises:
            RuntimeError: on every process, if the log-probs of any process differ by too much.
        """
        several = len(ids) > self.group_size
        ids, mask = ids[: self.group_size], mask[: self.group_size]
        real = mask[:, :-columns].sum() > len(ids)  # in an empty slot each prompt is one token
        if not self.accelerator.gather(real[None]).any():
            return  # nothing to compare yet; the next forward tries again
        if self.span is None:
            difference = self._apart(self._separate_one_by_one, model, ids, mask, columns, as_questions=several)
        else:
            short = slice(max(0, ids.size(1) - columns - CHECKED_PROMPT), ids.size(1) - columns + CHECKED_COMPLETION)
            shown = min(columns, CHECKED_COMPLETION)
            difference = max(
                self._apart(self._whole_rows, model, ids, mask, columns, as_questions=several),
                self._apart(
                    self._separate_one_by_one, model, ids[:, short], mask[:, short], shown, as_questions=several
                ),
            )
        worst = float(self.accelerator.gather(ids.new_tensor([difference], dtype=torch.float32)).max())
        limit, dtype = self._limit(model, ids.device.type)
        if not worst <= limit:  # also for NaN
            raise RuntimeError(
                f"log-probs of a group packed behind one prompt differ from those of its separate rows by {worst:.2g} "
                f"on average, over the limit of {limit} for {dtype}: set model.attention='eager' to train without "
                "sharing prompts, and report the model"
            )
        logger.info("shared prompts checked on the first group: log-probs within %.1e of separate rows", worst)
        self.checked = True

    def _apart(
        self,
        rows: Callable[[Any, Tensor, Tensor, int], Tensor],
        model: Any,
        ids: Tensor,
        mask: Tensor,
        columns: int,
        *,
        as_questions: bool,
    ) -> float:
        ((prompt, completions, kept),) = self._groups(ids, mask, columns)
        packed = pack(prompt, completions, kept)
        if as_questions:  # two on one document, which is the first half of the prompt
            half = len(ids) // 2
            two = [pack(prompt, completions[part], kept[part]) for part in (slice(half), slice(half, None))]
            packed = join(two, len(prompt) // 2)
        if self._too_short(packed):
            found, _, _ = self._separate(model, ids, mask, columns)
        else:
            found = self._spread(self._run(model, packed)[0], packed, columns)
        return disagreement(found, rows(model, ids, mask, columns), mask[:, -columns:])

    def _separate_one_by_one(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> Tensor:
        rows = zip(torch.split(ids, 1), torch.split(mask, 1))
        return torch.cat([self._separate(model, *row, columns)[0] for row in rows])

    def _limit(self, model: Any, device: str) -> tuple[float, torch.dtype]:
        """The largest allowed difference, and the dtype of the computation that decides it."""
        with self.accelerator.autocast():
            autocast = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if autocast else next(model.parameters()).dtype
        return LIMITS[dtype], dtype
