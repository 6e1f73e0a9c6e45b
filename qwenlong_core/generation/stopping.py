"""Where a completion ends: at an end-of-sequence token, or at a stop string."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class StopStrings:
    """Whether the text of token ids has just come to one of the strings, which may begin and end within tokens."""

    def __init__(self, tokenizer: Any, strings: Sequence[str]) -> None:
        self.tokenizer, self.strings = tokenizer, tuple(strings)
        # A token is a byte of text or more, so a string that ends in the last token lies in so many. The one more
        # is for tokenizers (Llama 2's) that drop the space that the first token decoded begins with.
        self.tokens = 1 + max((len(string.encode()) for string in strings), default=0)

    def __call__(self, token_ids: Sequence[int]) -> bool:
        """Asked after every token."""
        if not self.strings:
            return False
        tail = self.tokenizer.decode(list(token_ids[-self.tokens :]), skip_special_tokens=True)
        return any(string in tail for string in self.strings)
