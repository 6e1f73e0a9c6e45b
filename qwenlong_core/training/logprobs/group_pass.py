"""Log-probs of a batch's completions: a group in one packed row where the model allows it."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.training.logprobs.attention import NAME, forward_inputs, unsupported_reason
from qwenlong_core.training.logprobs.check import LIMITS, disagreement
from qwenlong_core.training.logprobs.packing import pack, unpack

logger = logging.getLogger(__name__)


def used_columns(attention_mask: Tensor) -> tuple[int, int]:
    """First and past-the-last column that any row uses; ``[B, T]`` rows are padded at the ends only."""
    used = attention_mask.any(dim=0).nonzero()
    return int(used[0]), int(used[-1]) + 1


class GroupScoring:
    """Mixin for TRL's ``GRPOTrainer``: the old, the reference and the training pass all come through here."""

    model: Any
    ref_model: Any
    accelerator: Any
    num_generations: int
    aux_loss_enabled: bool
    shares_prefix = False
    prefix_checked = False
    """Whether packed rows have been compared with separate rows on a group of this run."""

    def share_prefixes(self) -> None:
        """Run each group's prompt once per pass, where the model allows it, and say which it is."""
        reason = "it adds a router loss" if self.aux_loss_enabled else unsupported_reason(self.model)
        if reason is not None:
            logger.warning("%s runs a prompt once per completion: %s", type(self.model).__name__, reason)
            return
        for model in filter(None, (self.model, self.ref_model)):
            model.set_attn_implementation(NAME)
        self.shares_prefix = True

    @torch.no_grad()
    def completion_logprobs(
        self, prompt: Sequence[int], completions: Sequence[Sequence[int]]
    ) -> tuple[tuple[float, ...], ...]:
        """Log-probs of one prompt's completions under the policy as it stands, as the training pass has them."""
        longest = max(map(len, completions))
        rows = [[*prompt, *tokens, *[0] * (longest - len(tokens))] for tokens in completions]
        mask = [[1] * (len(prompt) + len(c)) + [0] * (longest - len(c)) for c in completions]
        ids, kept = (torch.tensor(value, device=self.accelerator.device) for value in (rows, mask))
        logps, _, _ = self._get_per_token_logps_and_entropies(self.model, ids, kept, longest)
        return tuple(tuple(row[: len(c)]) for row, c in zip(logps.tolist(), completions))

    @torch.no_grad()
    def _check_prefix(self, model: Any, ids: Tensor, mask: Tensor, logits_to_keep: int) -> None:
        """Compare one group of every process with its rows run one by one: G forwards more, once a run.

        Raises:
            RuntimeError: on every process, if log-probs differ on any.
        """
        real = mask[:, :-logits_to_keep].sum() > len(ids)  # an empty slot's prompt is one token
        if not self.accelerator.gather(real[None]).any():
            return
        packed, _ = self._score_group(model, ids, mask, logits_to_keep)
        rows = zip(torch.split(ids, 1), torch.split(mask, 1))
        separate = torch.cat([self._score_rows(model, *row, logits_to_keep)[0] for row in rows])
        apart = disagreement(packed, separate, mask[:, -logits_to_keep:])
        worst = float(self.accelerator.gather(ids.new_tensor([apart], dtype=torch.float32)).max())
        with self.accelerator.autocast():
            autocast = torch.is_autocast_enabled(ids.device.type)
            dtype = torch.get_autocast_dtype(ids.device.type) if autocast else self.model.dtype
        if not worst <= LIMITS[dtype]:
            raise RuntimeError(
                f"log-probs of a group packed behind one prompt differ from those of its separate rows by {worst:.2g} "
                f"in the mean, over {LIMITS[dtype]} for {dtype}: set model.attention='eager' to train without sharing "
                "prompts, and report the model"
            )
        logger.info("shared prompts checked on the first group: log-probs within %.1e of separate rows", worst)
        self.prefix_checked = True

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """TRL's, on each part cut to the columns it uses: rows are padded to the whole batch's longest."""
        size = batch_size or len(input_ids)
        pairs = zip(torch.split(input_ids, size), torch.split(attention_mask, size))
        parts = [self._score_part(model, ids, mask, logits_to_keep, **kwargs) for ids, mask in pairs]
        logps, entropies, aux = zip(*parts)
        return (
            torch.cat(logps),
            torch.cat(entropies) if entropies[0] is not None else None,
            torch.stack(aux).mean() if aux[0] is not None else None,
        )

    def _score_part(
        self, model: Any, ids: Tensor, mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        if not self.shares_prefix:
            return self._score_rows(model, ids, mask, logits_to_keep, **kwargs)
        size = self.num_generations
        if torch.is_grad_enabled() and not self.prefix_checked:
            self._check_prefix(model, ids[:size], mask[:size], logits_to_keep)
        groups = zip(torch.split(ids, size), torch.split(mask, size))
        scored = [self._score_group(model, *group, logits_to_keep, **kwargs) for group in groups]
        logps, entropies = zip(*scored)
        return torch.cat(logps), torch.cat(entropies) if entropies[0] is not None else None, None

    def _score_rows(
        self, model: Any, ids: Tensor, mask: Tensor, logits_to_keep: int, **kwargs: Any
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        start, end = used_columns(mask)
        cut = ids.size(1) - end
        logps, entropies, aux = super()._get_per_token_logps_and_entropies(  # type: ignore[misc]
            model, ids[:, start:end], mask[:, start:end], logits_to_keep - cut, **kwargs
        )
        pad = torch.nn.functional.pad
        return pad(logps, (0, cut)), None if entropies is None else pad(entropies, (0, cut)), aux

    def _score_group(
        self,
        model: Any,
        ids: Tensor,
        mask: Tensor,
        logits_to_keep: int,
        compute_entropy: bool = False,
        **_: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """A group in one row: its prompt is run once. An empty slot has no prompt to share."""
        prompt = ids[0, :-logits_to_keep][mask[0, :-logits_to_keep].bool()]
        if len(prompt) < 2:
            logps, entropies, _aux = self._score_rows(model, ids, mask, logits_to_keep, compute_entropy=compute_entropy)
            return logps, entropies
        completions, kept = ids[:, -logits_to_keep:], mask[:, -logits_to_keep:]
        longest = int(kept.sum(1).max())
        packed = pack(prompt, completions[:, :longest], kept[:, :longest])
        with self.accelerator.autocast():
            output = model(**forward_inputs(packed), shift_labels=packed.labels, fused_lm_head=True)

        def spread(values: Tensor) -> Tensor:
            return torch.nn.functional.pad(unpack(values, packed.layout), (0, logits_to_keep - longest))

        return spread(output.log_probs), spread(output.entropy) if compute_entropy else None
