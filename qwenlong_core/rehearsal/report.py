"""What a rehearsal found, as plain data: importable without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

TERMS = (
    "weights",
    "gradients",
    "optimizer",
    "kept activations",
    "one layer",
    "head",
    "collectives",
    "batch",
    "reserve",
)
"""What memory is used for. ``kept activations``: kept from the forward for the backward. ``one layer``: temporaries of
the layer that is computed, with its recomputation. ``head``: the output head and the loss, with the embedding.
``collectives``: gathered weights and buffers of exchanges. ``batch``: the step's rows, masks and log-probs.
``reserve``: what no rehearsal sees (see :data:`RESERVE`)."""

DEEP = ("weights", "gradients", "optimizer", "kept activations")
"""The terms that grow with the number of layers."""

RESERVE = 4 * 2**30
"""Bytes of a GPU that are assumed to be taken by what does not pass through torch's allocator or is never freed in a
step: the CUDA context, NCCL's channels, cuBLAS' workspace and a sleeping vLLM. An assumption, measured nowhere here.
Fragmentation is not in it."""


@dataclass(frozen=True)
class Peak:
    """Memory of one GPU in a training step, in bytes, and the work that it does."""

    terms: dict[str, int]
    """Bytes by term (:data:`TERMS`) at the highest moment; they add up to ``peak``."""
    peak: int
    """The most bytes that are in use at a time, the reserve included."""
    where: str
    """The part of the step in which the peak falls: one of the timeline's labels."""
    timeline: tuple[tuple[str, int], ...]
    """The step's parts in order, each with its own peak."""
    flops: dict[str, int]
    """Floating-point operations of this GPU for one forward's rows: ``"matmul, forward"`` and so on. Kinds are
    ``matmul`` and ``attention``, parts are ``old pass`` (if the step has one), ``forward`` and ``backward``, which
    includes the recomputation."""
    sent: dict[str, int]
    """Bytes that this GPU sends for one forward's rows, by kind of collective and part, as for ``flops``."""

    def to_json(self) -> dict[str, Any]:
        """For :func:`peak_from_json`."""
        return asdict(self)


def peak_from_json(values: Mapping[str, Any]) -> Peak:
    """The inverse of :meth:`Peak.to_json`."""
    timeline = tuple((label, size) for label, size in values["timeline"])
    return Peak(**{**values, "timeline": timeline})


@dataclass(frozen=True)
class Moment:
    """The highest moment of a part of the step."""

    label: str
    terms: dict[str, int]

    @property
    def size(self) -> int:
        """Bytes in use."""
        return sum(self.terms.values())


@dataclass(frozen=True)
class Run:
    """One rehearsal at one depth."""

    layers: int
    moments: tuple[Moment, ...]
    flops: dict[str, int]
    sent: dict[str, int]
    forwards: int
    """Forwards of the batch that was rehearsed."""


def run_from_json(values: Mapping[str, Any]) -> Run:
    """A run from its ``asdict``."""
    return Run(**{**values, "moments": tuple(Moment(**moment) for moment in values["moments"])})


def _line(shallow: int, deep: int, steps: float) -> int:
    return max(0, round(shallow + (deep - shallow) * steps))


def _on_the_line(shallow: Mapping[str, int], deep: Mapping[str, int], steps: float) -> dict[str, int]:
    return {name: _line(shallow.get(name, 0), value, steps) for name, value in deep.items()}


def peak_of(runs: Sequence[Run], layers: int, forwards: int, reserve: int) -> Peak:
    """The peak of a model from runs of one or two depths.

    All layers are alike, so what is there for every layer (:data:`DEEP`) is a straight line over their number, and the
    rest is the same at every depth. The batch's own tensors grow with the number of forwards in it.

    Args:
        runs: One of the full depth, or two of different depths.
        layers: Of the model.
        forwards: Of a whole rollout batch on one process.
        reserve: Bytes beside the step's own.
    """
    shallow, deep = runs[0], runs[-1]
    steps = (layers - shallow.layers) / (deep.layers - shallow.layers) if deep is not shallow else 0.0
    moments = []
    for one, other in zip(shallow.moments, deep.moments, strict=True):
        if one.label != other.label:
            raise ValueError(f"runs of different steps: {one.label!r} beside {other.label!r}")
        grown = _on_the_line(one.terms, other.terms, steps)
        terms = other.terms | {name: size for name, size in grown.items() if name in DEEP} | {"reserve": reserve}
        terms["batch"] = terms.get("batch", 0) * forwards // shallow.forwards
        moments.append(Moment(one.label, {name: terms.get(name, 0) for name in TERMS}))
    highest = max(moments, key=lambda moment: moment.size)
    return Peak(
        terms=highest.terms,
        peak=highest.size,
        where=highest.label,
        timeline=tuple((moment.label, moment.size) for moment in moments),
        flops=_on_the_line(shallow.flops, deep.flops, steps),
        sent=_on_the_line(shallow.sent, deep.sent, steps),
    )
