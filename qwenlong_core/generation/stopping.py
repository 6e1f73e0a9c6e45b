"""Stop strings: where a completion ends besides its end-of-sequence token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Tells whether the text of token ids has just reached a stop string, which may begin and end inside tokens."""

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        # A token holds at least one byte of text, so a string that ends in the last token lies within this many tokens.
        # One more is needed for tokenizers (Llama 2's) that drop the leading space of the first token they decode.
        self.tokens = 1 + max((len(string.encode()) for string in strings), default=0)

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Whether the last token completed a stop string; call it after every token."""
        if not self.strings:
            return False
        tail = self.tokenizer.decode(list(token_ids[-self.tokens :]), skip_special_tokens=True)
        return any(string in tail for string in self.strings)
