"""Sampling with a transformers model: each prompt is prefilled once, its samples share the result.

``generate`` of transformers repeats the prompt for every sample before the prefill; for long
prompts the prefill is nearly all of the work. Here a prompt is run once, its keys and values are
repeated for the G samples, and rows that are finished leave the batch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.kv_cache import expand
from qwenlong_core.generation.sampling import draw, prompt_generator
from qwenlong_core.records import Completion


class _Row:
    """A completion in the making."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []


class TransformersEngine:
    """Samples from a causal language model in this process.

    Args:
        model: Any decoder with full attention; it is used in evaluation mode and given back as it was.
        tokenizer: For decoding and its end-of-sequence token.
        batch_size: Prompts decoded together; memory grows with ``batch_size * samples`` caches.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, batch_size: int = 1) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        declared = model.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        self.stop_ids = frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling
    ) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`."""
        generators = self._generators(prompts, sampling.seed)
        was_training = self.model.training
        self.model.eval()
        try:
            groups: list[list[Completion]] = []
            for start in range(0, len(prompts), self.batch_size):
                part = slice(start, start + self.batch_size)
                groups += self._generate_batch(prompts[part], samples, sampling, generators[part])
            return groups
        finally:
            self.model.train(was_training)

    def _generators(self, prompts: Sequence[Sequence[int]], seed: int | None) -> list[torch.Generator]:
        if seed is None:
            seed = int(torch.randint(2**62, ()))
        seen: Counter[tuple[int, ...]] = Counter()
        generators = []
        for prompt in prompts:
            if not prompt:
                raise ValueError("an empty prompt cannot be continued: give it at least one token")
            generators.append(prompt_generator(seed, prompt, seen[tuple(prompt)]))
            seen[tuple(prompt)] += 1
        return generators

    def _prefill(self, prompt: Sequence[int]) -> tuple[DynamicCache, Tensor]:
        """The prompt's cache and the logits ``[1, V]`` after its last token."""
        cache = DynamicCache(config=self.model.config)
        ids = torch.tensor([list(prompt)], device=self.model.device)
        output = self.model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return cache, output.logits[:, -1]

    def _generate_batch(
        self,
        prompts: Sequence[Sequence[int]],
        samples: int,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
    ) -> list[list[Completion]]:
        caches, logits = zip(*(self._prefill(prompt) for prompt in prompts))
        rows = [_Row() for _ in range(len(prompts) * samples)]
        decoder = _Decoder(self.model, expand(caches, samples), [len(p) for p in prompts], samples)
        del caches  # the expanded copy is all that is needed; the originals would only hold memory
        step_logits = torch.cat(logits).repeat_interleave(samples, dim=0)
        alive = list(range(len(rows)))
        for step in range(sampling.max_tokens):
            # One number for every row, finished or not: a row's draws do not depend on its neighbours.
            uniform = torch.cat([torch.rand(samples, generator=g, dtype=torch.float64) for g in generators])
            tokens, logprobs = draw(step_logits, sampling.temperature, sampling.top_p, uniform[alive])
            drawn = tokens.tolist()
            for index, token, logprob in zip(alive, drawn, logprobs.tolist()):
                rows[index].token_ids.append(token)
                rows[index].logprobs.append(logprob)
            staying = [i for i, token in enumerate(drawn) if token not in self.stop_ids]
            if not staying or step + 1 == sampling.max_tokens:
                break
            if len(staying) < len(alive):
                alive = [alive[i] for i in staying]
                tokens = tokens[staying]
                decoder.keep(staying)
            step_logits = decoder.step(tokens)
        done = [self._completion(row) for row in rows]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _completion(self, row: _Row) -> Completion:
        return Completion(
            text=self.tokenizer.decode(row.token_ids, skip_special_tokens=True),
            token_ids=tuple(row.token_ids),
            finish_reason="stop" if row.token_ids[-1] in self.stop_ids else "length",
            logprobs=tuple(row.logprobs),
        )


class _Decoder:
    """One forward step at a time over the living rows."""

    def __init__(self, model: PreTrainedModel, cache: Any, lengths: Sequence[int], samples: int) -> None:
        self.model, self.cache = model, cache
        self.positions = torch.tensor(lengths, device=model.device).repeat_interleave(samples)
        longest = max(lengths)
        columns = torch.arange(longest, device=model.device)
        # Without padding no mask is given: attention then runs on grouped heads without copying them.
        self.mask = None
        if min(lengths) < longest:
            self.mask = (columns >= (longest - self.positions).unsqueeze(-1)).long()

    def keep(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.positions.device)
        self.cache.batch_select_indices(index)
        self.positions = self.positions[index]
        if self.mask is not None:
            self.mask = self.mask[index]

    def step(self, tokens: Tensor) -> Tensor:
        """Append one token per row; logits ``[rows, V]`` for the next."""
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        output = self.model(
            input_ids=tokens.unsqueeze(-1),
            attention_mask=self.mask,
            position_ids=self.positions.unsqueeze(-1),
            past_key_values=self.cache,
            use_cache=True,
        )
        self.positions = self.positions + 1
        logits: Tensor = output.logits[:, -1]
        return logits
