"""The benchmarks of an evaluation: the paper's seven, the long ones, the generated set, or your own files.

Scores must cover every question of a benchmark, so no row is dropped here, and one that cannot be read is an error.
Long documents are cut later, by the runner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from qwenlong_core.bundled import bundled_tokenizer
from qwenlong_core.data.filters import Names, question_key
from qwenlong_core.data.ruler.copies import RULER, is_ruler
from qwenlong_core.data.sources.catalogue import PAPER_TASKS, benchmarks_from_outside, sources
from qwenlong_core.data.sources.read import GENERATED, from_copies, is_made, local_files, misread, read_source
from qwenlong_core.data.sources.validation import Refused
from qwenlong_core.data.splits import document_key
from qwenlong_core.data.synthesis.generate import generate_bucket
from qwenlong_core.evaluation.published import BENCHMARKS
from qwenlong_core.records import Example
from qwenlong_core.settings.data import LengthBucket

PAPER = tuple(BENCHMARKS)
"""The seven benchmarks of arXiv 2505.17667, table 4, in its order."""
LONG = ("longbench-v2", "mrcr", "ruler", "aa-lcr", "corpusqa")
"""Longer ones, on which training at 120K tokens shows; see docs/benchmarks.md."""
SUITES = {"paper": PAPER, "long": LONG, "all": (*PAPER, *LONG)}
"""Several benchmarks by one name."""
SPECS = dict(zip(PAPER, ("docmath-200:", "frames:", *(f"longbench-{task}:" for task in PAPER_TASKS)), strict=True)) | {
    name: RULER if name == RULER else f"{name}:" for name in LONG
}
"""The source of each: its hub id, of the seven with the very questions that the paper asks; RULER is made here."""
_SHOWN = 3
"""Unreadable rows that an error message quotes."""
_GENERATED_SEED = "7-eval"
"""Seed of the generated questions: the pipeline's own under its default seed. Fixed here, so that an evaluation
under another sampling seed asks the same questions."""


def known_specs() -> dict[str, str]:
    """The source of each benchmark that is known by name: :data:`SPECS`, then those of other distributions."""
    return SPECS | benchmarks_from_outside()


def benchmark_specs(names: Sequence[str], data: Sequence[str]) -> dict[str, str]:
    """The source of each benchmark by name.

    Args:
        names: Benchmarks, or a suite of :data:`SUITES`. Without names: those in ``data``, else ``generated``.
        data: ``NAME=PATH_OR_HUB_ID``, read in the format of NAME, or ``NAME=SOURCE:PATH`` in another source's
            format, such as ``hotpotqa=longbench:hotpotqa.jsonl``.

    Raises:
        ValueError: an unknown benchmark, or data for one that is not asked for.
    """
    given = dict(_named(item) for item in data)
    wanted = list(dict.fromkeys(name for item in names for name in SUITES.get(item, (item,))))
    wanted = wanted or list(given) or [GENERATED]
    if unused := sorted(set(given) - set(wanted)):
        raise ValueError(
            f"data is given for {unused[0]!r}, which is not among the benchmarks asked for ({', '.join(wanted)}): "
            "add the benchmark, or leave its data out"
        )
    for name in wanted:
        if name not in given and name not in (*known_specs(), GENERATED):
            raise ValueError(
                f"unknown benchmark {name!r}: take one of {', '.join((*known_specs(), GENERATED))}, a suite ("
                f"{', '.join(SUITES)}), or give data for it, {name}=PATH"
            )
    return {name: given.get(name) or (GENERATED if name == GENERATED else known_specs()[name]) for name in wanted}


def benchmarks_of(specs: Sequence[str]) -> dict[str, str]:
    """The benchmarks among a profile's sources (``data.eval``) with these sources, in :func:`known_specs`' order."""
    ruler = next(filter(is_ruler, specs), RULER)  # it may name a folder of copies
    places = known_specs() | {RULER: ruler}
    return {name: spec for name, spec in places.items() if spec in specs}


def _named(item: str) -> tuple[str, str]:
    name, equals, location = item.partition("=")
    if not equals or not name or not location:
        raise ValueError(f"data {item!r} is not NAME=PATH_OR_HUB_ID")
    if location.partition(":")[0] in sources():
        return name, location
    return name, f"{name}:{location}" if name in (*sources(), RULER) else location


def read_benchmarks(
    specs: Mapping[str, str],
    buckets: Sequence[LengthBucket],
    copies: str | None = None,
    ruler: Callable[[str], Iterable[Example]] | None = None,
) -> list[Example]:
    """All rows of the benchmarks, each with its benchmark as ``source``; a published one's own parts follow its name.

    Rows that share an id, such as the pairs of MuSiQue-Full, are numbered apart as preparation does it.

    Args:
        specs: The source of each benchmark, as :func:`benchmark_specs` gives it.
        buckets: Lengths of the generated questions.
        copies: The folder ``data.benchmarks_dir``, where hub ids are read from copies.
        ruler: Makes the rows of a RULER source for the model at hand.

    Raises:
        ValueError: files that are missing (every benchmark without a file is named) or that hold unreadable rows.
        ConnectionError: the hub could not be reached.
    """
    missing: dict[str, ValueError] = {}
    places = dict(specs)
    for name, spec in specs.items():
        try:
            places[name] = from_copies(spec, Path(copies)) if copies is not None else spec
            local_files(places[name])
        except ValueError as error:
            missing[name] = error
    if missing:  # before anything is fetched, and all at once
        raise ValueError("\n".join(_mend(name, specs[name], error) for name, error in missing.items()))
    rows: list[Example] = []
    for name, spec in places.items():
        try:
            rows += _made(spec, buckets, ruler) if is_made(spec) else _read(name, spec)
        except (ValueError, ConnectionError) as error:
            raise type(error)(_mend(name, spec, error)) from error
    return list(_apart(rows))


def _apart(rows: Iterable[Example]) -> Iterator[Example]:
    """Different rows of one id, numbered. A row that comes twice keeps its id, and the plan refuses it."""
    names = Names()
    seen: set[tuple[str, bytes, bytes]] = set()
    for row in rows:
        key = row.id, document_key(row), question_key(row)
        yield row if key in seen else replace(row, id=names.own(row.id))
        seen.add(key)


def _made(
    spec: str, buckets: Sequence[LengthBucket], ruler: Callable[[str], Iterable[Example]] | None
) -> Iterable[Example]:
    if spec == GENERATED:
        return _generated(buckets)
    if ruler is None:
        raise ValueError("its rows are made with a model's tokenizer, and no model is at hand: evaluate a model")
    return ruler(spec)


def _generated(buckets: Sequence[LengthBucket]) -> Iterable[Example]:
    """The generated set. Its lengths are counted with one bundled tokenizer, so every model answers the same rows."""
    if not buckets:
        raise ValueError("the profile's data.generate_eval holds no length bucket: add one, or name benchmarks")
    tokenizer = bundled_tokenizer()
    return [row for bucket in buckets for row in generate_bucket(tokenizer, bucket, _GENERATED_SEED)]


def _read(name: str, spec: str) -> list[Example]:
    rows: list[Example] = []
    refused: list[Refused] = []
    for row in read_source(spec):
        if isinstance(row, Refused):
            refused.append(row)
        else:
            # The parts of a published benchmark keep their names: mrcr-2needle of mrcr.
            rows.append(row if row.source.startswith(f"{name}-") else replace(row, source=name))
    if refused:
        shown = "; ".join(str(row) for row in refused[:_SHOWN])
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        first = Path(refused[0].file)
        format_of = f". {misread(spec, first)}" if not rows and first.is_file() else ""
        raise ValueError(f"{len(refused)} of {len(refused) + len(rows)} rows are unreadable: {shown}{more}{format_of}")
    if not rows:
        raise ValueError(f"{spec} holds no rows")
    return rows


def _mend(name: str, spec: str, error: Exception) -> str:
    if spec != known_specs().get(name):  # a place was named, so the fault lies there: other places would not help
        return f"benchmark {name}: {error}"
    ways = f"Or give its own release as {name}=PATH, or copies of the hub's as data.benchmarks_dir"
    return f"benchmark {name}: {error}. {ways}"
