"""Documents that are nearly the same: MinHash signatures with locality-sensitive hashing (datasketch).

Two documents are compared by the Jaccard similarity of their runs of words; a Chinese or Japanese
character counts as a word. Memory holds signatures only, never texts: about 3 kB a document.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from datasketch import MinHash, MinHashLSH
from datasketch.hashfunc import sha1_hash32

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RUN = 8
"""Words in a run: longer than the phrases that documents of one kind have in common."""
_PERMUTATIONS = 128
"""The similarity is estimated to about 1/sqrt(128), or 0.09."""


def signature(text: str) -> MinHash:
    """MinHash of the text's runs of eight words; a shorter text is one run."""
    words = _WORD.findall(text.lower())
    runs = {" ".join(words[i : i + _RUN]) for i in range(max(1, len(words) - _RUN + 1))}
    minhash = _BLANK.copy()
    minhash.update_batch(sorted(runs))
    return minhash


def _hash(run: str) -> int:
    return int(sha1_hash32(run.encode()))


def _band_key(band: bytes) -> bytes:
    return hashlib.blake2b(band, digest_size=8).digest()


_BLANK = MinHash(num_perm=_PERMUTATIONS, hashfunc=_hash)
"""Copied for every document: copies share the permutations."""


class NearDuplicates:
    """An index of documents that can be asked for one nearly equal to a given text."""

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, hashfunc=_band_key)
        self._signatures: dict[str, MinHash] = {}

    def find(self, minhash: MinHash) -> str | None:
        """Key of the most similar document added so far, if it reaches the threshold."""
        candidates = sorted(str(key) for key in self._index.query(minhash))
        similar = [(float(self._signatures[key].jaccard(minhash)), key) for key in candidates]
        best = max(similar, key=lambda pair: pair[0], default=(0.0, ""))
        return best[1] if best[0] >= self._threshold else None

    def add(self, key: str, minhash: MinHash) -> None:
        """Index a document under a key that is not in use."""
        self._index.insert(key, minhash)
        self._signatures[key] = minhash


def similarity(a: str, b: str) -> float:
    """Estimated Jaccard similarity of two texts, 0 to 1."""
    estimate: np.floating | float = signature(a).jaccard(signature(b))
    return float(estimate)
