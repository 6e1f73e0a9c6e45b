"""``qwenlong compare``: two models or evaluations beside each other."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from qwenlong.flows.cli.common import Json, Overrides, Profile, console, one_clear_message, table
from qwenlong.tasks.store import open_store
from qwenlong_core.settings.profiles import load_settings

if TYPE_CHECKING:
    from qwenlong.tasks.compare import Change, Side
    from qwenlong_core.evaluation.compare import Comparison, Difference, Flip
    from qwenlong_core.store.protocol import Store

_ANSWER = 160
"""Characters of an answer in the table: its end, where it commits."""

Reference = Annotated[
    str, typer.Argument(help="models:/qwenlong@champion, models:/qwenlong/2, model/DIGEST or evaluation/DIGEST.")
]


def compare(
    a: Reference,
    b: Reference,
    show: Annotated[int, typer.Option(min=0, help="How many flipped answers to print each way.")] = 3,
    html: Annotated[Path | None, typer.Option(help="Write a page with both side by side, with documents.")] = None,
    profile: Profile = "local",
    overrides: Overrides = None,
    as_json: Json = False,
) -> None:
    """Compare two models: what differs behind them, the paired gain of B over A, and which answers flipped."""
    with one_clear_message():
        from qwenlong.tasks.compare import changes, find_pair, rows_of
        from qwenlong_core.evaluation.compare import compare as compared
        from qwenlong_core.store.contents import read_contents

        settings = load_settings(profile, overrides or ())
        store = open_store(settings)
        contents = read_contents(store)
        first, second = find_pair(store, contents, settings.tracking, a, b)
        found = compared(first.evaluation, second.evaluation, first.evaluation.bootstrap)
        differing = changes(contents, first.ref, second.ref)
        if html is not None:
            data = rows_of(contents, first)
            _write_page(html, store, (first, second), store.fetch(data) if data else None, (a, b))
        if as_json:
            typer.echo(json.dumps(_as_json(found, differing, first, second)))
            return
        _print(found, differing, show, (a, b))
        if html is not None:
            typer.echo(f"Page    {html}")


def _print(found: Comparison, differing: Sequence[Change], show: int, names: tuple[str, str]) -> None:
    out = console(width=140)
    out.print(f"A  {names[0]}\nB  {names[1]}\n", soft_wrap=True)
    rows = [
        _row(part) for part in ([*found.benchmarks, found.overall] if len(found.benchmarks) > 1 else [found.overall])
    ]
    out.print(table("Score, and the paired gain of B over A", rows))
    out.print(f"{found.overall.verdict}.{_words(found)}\n")
    gained = [flip for flip in found.flips if flip.gain > 0]
    lost = [flip for flip in reversed(found.flips) if flip.gain < 0]
    out.print(f"B gained {len(gained)} items and lost {len(lost)}.")
    for title, flips in (("Gained by B", gained[:show]), ("Lost by B", lost[:show])):
        if flips:
            out.print(table(title, [_flip_row(flip) for flip in flips]))
    if differing:
        shown = [{"stage": c.stage, "what": c.what, "A": _short(c.a), "B": _short(c.b)} for c in differing]
        out.print(table("What differs behind them", shown))
    else:
        out.print("Nothing differs behind them: same settings, code and data.")


def _words(found: Comparison) -> str:
    words = ""
    if found.items_to_decide is not None:
        words += f" About {found.items_to_decide:,} items would find a gain of {found.overall.gain.mean:+.2f}."
    if found.left_out:
        words += f" {found.left_out} items are left out: one of the two has no verdict on them."
    return words


def _row(part: Difference) -> dict[str, Any]:
    from qwenlong_core.report.tables import Interval

    gain = Interval(part.gain, signed=True)
    return {"items of": part.name, "A": f"{part.a:.2f}", "B": f"{part.b:.2f}", "gain": gain, "items": part.items,
            "verdict": part.verdict}  # fmt: skip


def _flip_row(flip: Flip) -> dict[str, str]:
    return {"item": flip.item, "A": _end(flip.a[0].completion), "B": _end(flip.b[0].completion)}


def _end(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= _ANSWER else f"... {words[-_ANSWER:]}"


def _short(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _ANSWER else f"{text[:_ANSWER]} ..."


def _write_page(page: Path, store: Store, sides: tuple[Side, Side], data: Path | None, names: tuple[str, str]) -> None:
    """The report's page with two evaluations, A as the one to compare with."""
    from qwenlong_core.jobs import ReportJob
    from qwenlong_core.report.build import build_page

    bootstrap = sides[0].evaluation.bootstrap
    job = ReportJob(
        title=f"{names[1]} beside {names[0]}",
        notes=(f"A is {names[0]}, B is {names[1]}.",),
        bootstrap_resamples=bootstrap.resamples,
        confidence=bootstrap.confidence,
        seed=bootstrap.seed,
    )
    inputs = {f"evaluate-{name}": store.fetch(side.ref) for name, side in zip("AB", sides)}
    page.write_text(build_page(job, inputs | ({"data": data} if data else {})))


def _as_json(found: Comparison, differing: Sequence[Change], a: Side, b: Side) -> dict[str, Any]:
    return {
        "a": f"evaluation/{a.ref.sha256}",
        "b": f"evaluation/{b.ref.sha256}",
        "verdict": found.overall.verdict,
        "items_to_decide": found.items_to_decide,
        "left_out": found.left_out,
        "scores": [_numbers(part) for part in (found.overall, *found.benchmarks)],
        "flips": [
            {
                "item": flip.item,
                "benchmark": flip.benchmark,
                "gain": flip.gain,
                "a": [sample.completion for sample in flip.a],
                "b": [sample.completion for sample in flip.b],
            }
            for flip in found.flips
        ],
        "changes": [change._asdict() for change in differing],
    }


def _numbers(part: Difference) -> dict[str, Any]:
    return {
        "name": part.name,
        "items": part.items,
        "a": part.a,
        "b": part.b,
        "gain": part.gain.mean,
        "low": part.gain.low,
        "high": part.gain.high,
        "verdict": part.verdict,
    }
