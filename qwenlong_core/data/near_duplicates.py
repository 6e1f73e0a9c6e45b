"""Find nearly equal documents by MinHash signatures and locality-sensitive hashing (datasketch).

Two documents are compared by the Jaccard similarity of their runs of eight words; a Chinese or Japanese
character counts as a word. Memory holds signatures, never texts: about 3 kB per document.
"""

from __future__ import annotations

import hashlib
import re

import numpy as np
from datasketch import MinHash, MinHashLSH
from datasketch.hashfunc import sha1_hash64

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
_RUN = 8
"""Words in a run: more than in the phrases that all documents of one kind share."""
_PERMUTATIONS = 128
"""The similarity is estimated with an error of about 1/sqrt(128), or 0.09."""


def signature(text: str) -> MinHash:
    """MinHash of the text's runs of eight words; a shorter text is a single run.

    A run's hash is a polynomial of its words' hashes (as in Rabin-Karp), so that a long text costs a few vector
    operations and one dictionary look-up per word.
    """
    hashes: dict[str, int] = {}
    words = [hashes.get(word) or hashes.setdefault(word, _hash(word)) for word in _WORD.findall(text.lower())]
    padded = np.array(words + [0] * (_RUN - len(words)), dtype=np.uint64)
    runs = sum((padded[i : len(padded) - _RUN + 1 + i] * power for i, power in enumerate(_POWERS)), np.uint64(0))
    minhash = _BLANK.copy()
    # The high bits mix all words of the run; a product's low bits depend on the factors' low bits only.
    minhash.update_batch(np.unique(runs >> np.uint64(32)).tolist())
    return minhash


def _hash(word: str) -> int:
    return int(sha1_hash64(word.encode()))


def _band_key(band: bytes) -> bytes:
    return hashlib.blake2b(band, digest_size=8).digest()


_POWERS = [np.uint64(pow(0x9E3779B97F4A7C15, power, 2**64)) for power in range(_RUN)]
"""Powers of an odd 64-bit number, derived from the golden ratio."""
_BLANK = MinHash(num_perm=_PERMUTATIONS, hashfunc=int)
"""Copied for every document, because copies share the permutations, which are slow to draw."""


class NearDuplicates:
    """An index of documents, to look up one that is nearly equal to another.

    Args:
        threshold: Jaccard similarity, 0 to 1, from which documents are nearly equal.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._index = MinHashLSH(threshold=threshold, num_perm=_PERMUTATIONS, hashfunc=_band_key)
        self._signatures: dict[str, MinHash] = {}

    def find(self, minhash: MinHash) -> str | None:
        """Key of the most similar document added so far, if it reaches the threshold."""
        # The index may return documents below the threshold, so the signatures decide. Sorted for determinism.
        candidates = sorted(str(key) for key in self._index.query(minhash))
        similar = [(float(self._signatures[key].jaccard(minhash)), key) for key in candidates]
        best = max(similar, key=lambda pair: pair[0], default=(0.0, ""))
        return best[1] if best[0] >= self._threshold else None

    def add(self, key: str, minhash: MinHash) -> None:
        """Index a document under a new key."""
        self._index.insert(key, minhash)
        self._signatures[key] = minhash


def similarity(a: str, b: str) -> float:
    """Estimated Jaccard similarity of two texts, 0 to 1."""
    estimate: np.floating | float = signature(a).jaccard(signature(b))
    return float(estimate)
