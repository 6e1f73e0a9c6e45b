"""Sample with a transformers model; what prompts and samples share is computed and stored once.

transformers' ``generate`` repeats the prompt for every sample before the prefill, which is nearly all of the work if
prompts are long. Here the prompts of a call form a tree (:mod:`prompt_tree`): each part is run once, the samples of all
prompts below it attend to its single copy (:mod:`cascade`), and finished rows leave the batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call
from transformers import PreTrainedModel

from qwenlong_core.generation.cascade import shares_exactly
from qwenlong_core.generation.decoder import CascadeDecoder, Decoder, ExpandedDecoder
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.kv_cache import require_full_attention
from qwenlong_core.generation.packed_weights import pack_weights
from qwenlong_core.generation.prefill import Forward, Prefill
from qwenlong_core.generation.prompt_tree import Part, Path, paths
from qwenlong_core.generation.sampling import draw
from qwenlong_core.generation.seeds import prompt_seeds
from qwenlong_core.generation.stopping import StopStrings
from qwenlong_core.records import Completion


class _Row:
    """A completion that is being sampled."""

    def __init__(self) -> None:
        self.token_ids: list[int] = []
        self.logprobs: list[float] = []
        self.stopped = False


class TransformersEngine:
    """Samples from a causal language model in this process.

    Args:
        model: Any decoder with full attention. It runs in evaluation mode and is returned to its earlier mode.
        tokenizer: Decodes tokens and gives the end-of-sequence token.
        batch_size: Prompts decoded together. Memory grows with their tokens (shared ones count once) and with
            ``batch_size * samples`` completions.

    Raises:
        ValueError: the model has layers other than full attention.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: Any, batch_size: int = 1) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.layers = require_full_attention(model.config)
        self._shares: bool | None = None
        # Chat models often end at another token (<|im_end|>) than their tokenizer declares.
        declared = model.generation_config.eos_token_id
        ids = declared if isinstance(declared, list) else [declared]
        self.stop_ids = frozenset(i for i in [*ids, tokenizer.eos_token_id] if i is not None)

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], samples: int, sampling: Sampling) -> list[list[Completion]]:
        """See :class:`qwenlong_core.generation.engine.Engine`.

        Raises:
            ValueError: a prompt is empty.
        """
        generators = self._generators(prompts, sampling.seed)
        groups: list[list[Completion]] = [[] for _ in prompts]
        with self._forward(self.batch_size * samples) as forward:
            prefill = Prefill(self.model, forward, self.layers)
            order = paths(prompts) if self._shares else [Path(i, (Part(0, p),)) for i, p in enumerate(prompts)]
            for start in range(0, len(order), self.batch_size):
                batch = order[start : start + self.batch_size]
                decoder, logits = self._decoder(prefill, batch, samples)
                chosen = [generators[path.index] for path in batch]
                done = self._sample(decoder, logits, samples, sampling, chosen)
                for i, path in enumerate(batch):
                    groups[path.index] = done[i * samples : (i + 1) * samples]
                # Freed before the next prefill: only parts of the next prompt are kept.
                del decoder
                prefill.keep_for(order[start + self.batch_size :][:1])
        return groups

    @contextmanager
    def _forward(self, rows: int) -> Iterator[Forward]:
        """The model's forward in evaluation mode, with packed weights where they are faster."""
        was_training = self.model.training
        self.model.eval()
        try:
            if self._shares is None:
                self._shares = shares_exactly(self.model, self.layers)
            # Packed anew for every call, because training changes the weights in between.
            weights = pack_weights(self.model, rows)
            yield partial(_call, self.model, weights) if weights else self.model
        finally:
            self.model.train(was_training)

    def _generators(self, prompts: Sequence[Sequence[int]], seed: int | None) -> list[torch.Generator]:
        if seed is None:
            # From torch's global generator, so that a seeded run stays reproducible.
            seed = int(torch.randint(2**62, ()))
        if not all(prompts):
            raise ValueError("an empty prompt cannot be continued: give it at least one token")
        return [torch.Generator().manual_seed(own) for own in prompt_seeds(seed, prompts)]

    def _decoder(self, prefill: Prefill, batch: Sequence[Path], samples: int) -> tuple[Decoder, Tensor]:
        """A decoder with ``samples`` rows per path, and the logits ``[paths, V]`` of the first new token."""
        logits = torch.cat([prefill(path) for path in batch])
        lengths = [path.length for path in batch]
        if self._shares:
            return CascadeDecoder(prefill, lengths, samples, prefill.shared(batch, samples)), logits
        return ExpandedDecoder(prefill, lengths, samples, [prefill.caches[path.parts[0]] for path in batch]), logits

    def _sample(
        self,
        decoder: Decoder,
        logits: Tensor,
        samples: int,
        sampling: Sampling,
        generators: Sequence[torch.Generator],
    ) -> list[Completion]:
        """The completions of the decoder's rows, in order."""
        rows = [_Row() for _ in range(len(logits) * samples)]
        stops = StopStrings(self.tokenizer, sampling.stop)
        logits = logits.repeat_interleave(samples, dim=0)
        alive = list(range(len(rows)))
        with decoder.attention():
            for step in range(sampling.max_tokens):
                # One number for every row, finished or not, so that a row's draws do not depend on its neighbours.
                uniform = torch.cat([torch.rand(samples, generator=g, dtype=torch.float64) for g in generators])
                tokens, logprobs = draw(logits, sampling.temperature, sampling.top_p, uniform[alive])
                drawn = tokens.tolist()
                for index, token, logprob in zip(alive, drawn, logprobs.tolist()):
                    rows[index].token_ids.append(token)
                    rows[index].logprobs.append(logprob)
                for index, token in zip(alive, drawn):
                    rows[index].stopped = token in self.stop_ids or stops(rows[index].token_ids)
                staying = [i for i, index in enumerate(alive) if not rows[index].stopped]
                # The last token of a completion needs no forward of its own.
                if not staying or step + 1 == sampling.max_tokens:
                    break
                if len(staying) < len(alive):
                    alive = [alive[i] for i in staying]
                    tokens = tokens[staying]
                    decoder.keep(staying)
                logits = decoder.step(tokens)
        return [self._completion(row) for row in rows]

    def _completion(self, row: _Row) -> Completion:
        return Completion(
            text=self.tokenizer.decode(row.token_ids, skip_special_tokens=True),
            token_ids=tuple(row.token_ids),
            finish_reason="stop" if row.stopped else "length",
            logprobs=tuple(row.logprobs),
        )


def _call(model: PreTrainedModel, weights: dict[str, Tensor], **inputs: Any) -> Any:
    return functional_call(model, weights, (), inputs)
