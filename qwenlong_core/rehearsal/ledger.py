"""Who holds how many bytes of the device, at every moment of a step."""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from qwenlong_core.rehearsal.device import TorchDispatchMode, storage_key, tree_leaves
from qwenlong_core.rehearsal.report import Moment
from qwenlong_core.rehearsal.work import flops_of, inside_of, sent_of


def in_blocks(size: int) -> int:
    """Bytes that torch's CUDA allocator takes for a tensor: multiples of 512."""
    return -(-size // 512) * 512


class _Storage:
    """One storage on the device."""

    __slots__ = ("born", "size", "term", "watch")

    def __init__(self, size: int, term: str, born: int) -> None:
        self.size, self.term, self.born = size, term, born
        self.watch: Any = None


class Ledger(TorchDispatchMode):
    """Counts the storages on a device. Enter it after all other modes.

    Args:
        taken: Bytes that the device's allocator takes for so many.

    Attributes:
        term: What new storages count as.
        label: The part of the step that runs.
    """

    def __init__(self, device: str = "cuda", taken: Callable[[int], int] = in_blocks) -> None:
        super().__init__()
        self.device, self.taken = device, taken
        self.term, self.label = "weights", "start"
        self.terms: Counter[str] = Counter()
        self.total = 0
        self.born = 0
        self.moments: dict[str, Moment] = {}
        self.flops: dict[str, Counter[str]] = {}
        self.sent: dict[str, Counter[str]] = {}
        self._live: dict[int, _Storage] = {}
        self._resize = torch.UntypedStorage.resize_

    # -- what the step's hooks call ----------------------------------------------------------------------

    @contextmanager
    def counting_as(self, term: str) -> Iterator[None]:
        """New storages count as ``term``."""
        before, self.term = self.term, term
        try:
            yield
        finally:
            self.term = before

    def begin(self, label: str) -> None:
        """A new part of the step begins."""
        self.label = label
        self._note()

    def restart(self) -> None:
        """Forget all moments up to now, but not what is held."""
        self.moments.clear()
        self.flops.clear()
        self.sent.clear()

    def recount(self, term: str, *tensors: Tensor | None) -> None:
        """Count these tensors' storages as ``term`` from now on."""
        for tensor in tensors:
            entry = None if tensor is None else self._live.get(storage_key(tensor.untyped_storage()))
            if entry is not None:
                self._move(entry, term)

    def recount_since(self, born: int, term: str, source: str) -> None:
        """Count what was made since ``born``, is still there and counts as ``source``, as ``term``."""
        for entry in self._live.values():
            if entry.born > born and entry.term == source:
                self._move(entry, term)

    # -- the book ----------------------------------------------------------------------------------------

    def __enter__(self) -> Ledger:
        ledger, resize = self, self._resize

        def resize_(storage: Any, size: int) -> Any:
            result = resize(storage, size)
            if storage_key(storage) in ledger._live:
                ledger._see(storage)
            return result

        torch.UntypedStorage.resize_ = resize_  # type: ignore[method-assign,assignment]
        super().__enter__()
        return self

    def __exit__(self, *details: Any) -> None:
        torch.UntypedStorage.resize_ = self._resize  # type: ignore[method-assign]
        super().__exit__(*details)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(kind.__name__ == "DTensor" for kind in types):
            return NotImplemented
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == self.device:
                self._see(leaf.untyped_storage())  # a fake's own is on torch's meta device
        self._work(func, args)
        return result

    def _see(self, storage: Any) -> None:
        size = self.taken(storage.nbytes())
        entry = self._live.get(key := storage_key(storage))
        if entry is None:
            self.born += 1
            entry = self._live[key] = _Storage(0, self.term, self.born)
            entry.watch = weakref.finalize(storage, self._gone, key)
            entry.watch.atexit = False
        if size != entry.size:
            self._add(entry.term, size - entry.size)
            entry.size = size

    def _gone(self, key: int) -> None:
        entry = self._live.pop(key)
        self._add(entry.term, -entry.size)

    def _move(self, entry: _Storage, term: str) -> None:
        self.terms[entry.term] -= entry.size
        self.terms[term] += entry.size
        entry.term = term

    def _add(self, term: str, size: int) -> None:
        self.terms[term] += size
        self.total += size
        if size > 0:
            self._note()

    def _note(self, inside: int = 0) -> None:
        """Remember this moment if it is the label's highest; ``inside``: what a kernel needs while it runs."""
        highest = self.moments.get(self.label)
        if highest is None or self.total + inside > highest.size:
            terms = dict(self.terms)
            terms[self.term] = terms.get(self.term, 0) + inside
            self.moments[self.label] = Moment(self.label, terms)

    def _work(self, func: Any, args: Any) -> None:
        kind, count = flops_of(func, args)
        if count:
            self.flops.setdefault(self.label, Counter())[kind] += count
        if func.namespace == "c10d":
            name, size = sent_of(func, args)
            self.sent.setdefault(self.label, Counter())[name] += size
        inside = inside_of(func, args)
        if inside:
            self._note(inside)
