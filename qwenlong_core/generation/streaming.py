"""Stream one answer while it is generated, for a person at a terminal.

Pieces of text come from a transformers model in this process or from an OpenAI-compatible server;
:func:`split_thinking` separates the thinking from the answer as they arrive.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from qwenlong_core.endpoint import api_key, fault_of
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.proxies import reached
from qwenlong_core.settings.evaluation import ServerSettings

_OPEN, _CLOSE = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Piece:
    """A text fragment as the engine delivered it."""

    text: str
    tokens: int
    """Tokens since the previous piece; a piece from a server counts as one."""


@dataclass(frozen=True, slots=True)
class Part:
    """Text that is all thinking or all answer."""

    text: str
    tokens: int
    thinking: bool


def stream_local(model: Any, tokenizer: Any, prompt: Sequence[int], sampling: Sampling) -> Iterator[Piece]:
    """Stream a transformers model's answer to a prompt of token ids."""
    import torch
    from transformers import StoppingCriteriaList, TextIteratorStreamer, set_seed

    class Streamer(TextIteratorStreamer):  # type: ignore[misc]
        """Delivers the number of tokens along with each text."""

        tokens = 0

        def put(self, value: Any) -> None:
            self.tokens += 0 if self.next_tokens_are_prompt else value.numel()
            super().put(value)

        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            self.text_queue.put(Piece(text, self.tokens))
            self.tokens = 0
            if stream_end:
                self.text_queue.put(self.stop_signal)

    streamer = Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
    failures: list[BaseException] = []
    left = threading.Event()  # set once nobody reads any more
    # top_k=0: transformers' default of 50 would cut the nucleus.
    drawn = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    ids = torch.tensor([list(prompt)], device=model.device)

    def stop(rows: Any, scores: Any, **kwargs: Any) -> Any:
        return torch.full((len(rows),), left.is_set(), device=rows.device)

    def work() -> None:
        try:
            model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=sampling.max_tokens,
                streamer=streamer,
                stop_strings=list(sampling.stop) or None,
                tokenizer=tokenizer,
                stopping_criteria=StoppingCriteriaList([stop]),
                pad_token_id=tokenizer.pad_token_id,
                **(drawn if sampling.temperature else {"do_sample": False}),
            )
        except BaseException as error:
            failures.append(error)
            streamer.text_queue.put(streamer.stop_signal)

    if sampling.seed is not None:
        set_seed(sampling.seed)
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield from streamer
    finally:
        # A thread that is still inside torch when Python exits would abort the process.
        left.set()
        thread.join()
    if failures:
        raise failures[0]


def stream_served(settings: ServerSettings, message: str, sampling: Sampling) -> Iterator[Piece]:
    """Stream a server's answer to a user's message.

    Raises:
        ValueError: the environment variable of the key is not set.
        ConnectionError: the server did not answer, or the answer broke off.
    """
    from openai import OpenAI, OpenAIError

    client = OpenAI(
        base_url=reached(settings.base_url),
        api_key=api_key(settings.api_key_variable, "evaluation.server.api_key_variable"),
        timeout=settings.timeout_seconds,
        max_retries=settings.max_retries,
    )
    thinking = False
    try:
        with client.chat.completions.create(
            model=settings.model,
            messages=[{"role": "user", "content": message}],
            max_tokens=sampling.max_tokens,
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            seed=sampling.seed,
            stream=True,
            stop=list(sampling.stop) or None,
        ) as chunks:
            for chunk in chunks:
                for delta in (choice.delta for choice in chunk.choices):
                    thought = getattr(delta, "reasoning_content", None) or getattr(delta, "reasoning", None)
                    # Servers with a reasoning parser send the thinking in a separate field: put its tags back.
                    if thought and not thinking:
                        yield Piece(_OPEN, 0)
                    if thinking and delta.content:
                        yield Piece(_CLOSE, 0)
                    thinking = bool(thought) or (thinking and not delta.content)
                    if text := thought or delta.content:
                        yield Piece(text, 1)
    except OpenAIError as error:
        raise ConnectionError(
            f"the server at {settings.base_url}: {fault_of(error, settings.timeout_seconds).text}"
        ) from error


def split_thinking(pieces: Iterable[Piece], thinking: bool = False) -> Iterator[Part]:
    """Split pieces into thinking and answer, without the tags; a tag may be spread over several pieces.

    Args:
        pieces: Pieces in order.
        thinking: Whether the prompt has already opened the thinking.
    """
    held, tokens = "", 0
    for piece in pieces:
        held, tokens = held + piece.text, tokens + piece.tokens
        while (tag := _CLOSE if thinking else _OPEN) in held:
            before, _, held = held.partition(tag)
            if before:  # otherwise its tokens count for the text after the tag
                yield Part(before, tokens, thinking)
                tokens = 0
            thinking = not thinking
        ready = len(held) - _partial_tag(held, tag)
        if ready:
            yield Part(held[:ready], tokens, thinking)
            held, tokens = held[ready:], 0
    if held or tokens:
        yield Part(held, tokens, thinking)


def _partial_tag(text: str, tag: str) -> int:
    """Number of characters at the end of the text that may be the beginning of the tag."""
    return next((length for length in range(len(tag) - 1, 0, -1) if text.endswith(tag[:length])), 0)
