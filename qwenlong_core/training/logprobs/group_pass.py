"""Log-probs of a batch's completions, with each group in one packed row where the model allows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.training.logprobs.attention import NAME, forward_inputs, unsupported_reason
from qwenlong_core.training.logprobs.check import LIMITS, disagreement
from qwenlong_core.training.logprobs.packing import pack, unpack

logger = logging.getLogger(__name__)

Pass = tuple[Tensor, Tensor | None, Tensor | None]
"""Log-probs ``[rows, tokens]``, entropies of the same shape and the router's loss; ``None`` where not asked for."""


def used_columns(attention_mask: Tensor) -> tuple[int, int]:
    """First and past-the-last column that any row uses, of rows ``[B, T]`` that are padded at their ends."""
    used = attention_mask.any(dim=0).nonzero()
    return int(used[0]), int(used[-1]) + 1


def share_prompts(policy: Any, reference: Any, router_loss: bool) -> bool:
    """Set the attention that runs a group's prompt once, on both models, and return whether it could be set.

    Args:
        policy: The model that is trained.
        reference: The model it is compared with, of the same kind; ``None`` without one.
        router_loss: Whether a router's loss is trained on, which packed rows do not compute.
    """
    reason = "it adds a router loss" if router_loss else unsupported_reason(policy)
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
    """

    def __init__(
        self, accelerator: Any, group_size: int, separate_rows: Callable[..., Pass], *, shares_prompts: bool
    ) -> None:
        self.accelerator, self.group_size = accelerator, group_size
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
        logps, entropies, router_losses = zip(*forwards)
        return (
            torch.cat(logps),
            torch.cat(entropies) if entropies[0] is not None else None,
            torch.stack(router_losses).mean() if router_losses[0] is not None else None,
        )

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
        if not self.shares_prompts:
            return self._separate(model, ids, mask, columns, **options)
        size = self.group_size
        if torch.is_grad_enabled() and not self.checked:
            self._check(model, ids[:size], mask[:size], columns)
        groups = zip(torch.split(ids, size), torch.split(mask, size))
        passes = [self._packed(model, *group, columns, **options) for group in groups]
        logps, entropies = zip(*passes)
        return torch.cat(logps), torch.cat(entropies) if entropies[0] is not None else None, None

    def _separate(self, model: Any, ids: Tensor, mask: Tensor, columns: int, **options: Any) -> Pass:
        """One row per completion, without the columns that no row uses."""
        # The rows are padded to the longest prompt and completion of the whole batch, so a forward over
        # some of them often has empty columns at both ends.
        start, end = used_columns(mask)
        unused = ids.size(1) - end
        logps, entropies, router_loss = self._separate_rows(
            model, ids[:, start:end], mask[:, start:end], columns - unused, **options
        )
        pad = torch.nn.functional.pad
        return pad(logps, (0, unused)), None if entropies is None else pad(entropies, (0, unused)), router_loss

    def _packed(
        self, model: Any, ids: Tensor, mask: Tensor, columns: int, compute_entropy: bool = False, **_: Any
    ) -> tuple[Tensor, Tensor | None]:
        """A group in one row, so that its prompt is run once."""
        prompt = ids[0, :-columns][mask[0, :-columns].bool()]
        if len(prompt) < 2:  # an empty slot: a prompt of one token leaves nothing to share
            logps, entropies, _router_loss = self._separate(model, ids, mask, columns, compute_entropy=compute_entropy)
            return logps, entropies
        completions, kept = ids[:, -columns:], mask[:, -columns:]
        longest = int(kept.sum(1).max())
        packed = pack(prompt, completions[:, :longest], kept[:, :longest])
        with self.accelerator.autocast():
            output = model(**forward_inputs(packed), shift_labels=packed.labels, fused_lm_head=True)

        def spread(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(unpack(values, packed.layout), (0, columns - longest))

        return spread(output.log_probs), spread(output.entropy) if compute_entropy else None

    @torch.no_grad()
    def _check(self, model: Any, ids: Tensor, mask: Tensor, columns: int) -> None:
        """Compare one group of every process with its separate rows: G more forwards, once in a run.

        Raises:
            RuntimeError: on every process, if the log-probs of any process differ by too much.
        """
        real = mask[:, :-columns].sum() > len(ids)  # in an empty slot each prompt is one token
        if not self.accelerator.gather(real[None]).any():
            return  # nothing to compare yet; the next forward tries again
        packed, _ = self._packed(model, ids, mask, columns)
        rows = zip(torch.split(ids, 1), torch.split(mask, 1))
        separate = torch.cat([self._separate(model, *row, columns)[0] for row in rows])
        difference = disagreement(packed, separate, mask[:, -columns:])
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

    def _limit(self, model: Any, device: str) -> tuple[float, torch.dtype]:
        """The largest allowed difference, and the dtype of the computation that decides it."""
        with self.accelerator.autocast():
            autocast = torch.is_autocast_enabled(device)
            dtype = torch.get_autocast_dtype(device) if autocast else next(model.parameters()).dtype
        return LIMITS[dtype], dtype
