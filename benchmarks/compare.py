"""Shared by the speed benchmarks: clocks, alternating runs, ratios, and the table that is saved."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

Row = dict[str, Any]


def model_folder(text: str) -> Path:
    """Type of a command-line argument: a folder with a model, refused before anything is loaded."""
    folder = Path(text)
    if not (folder / "config.json").is_file():
        raise argparse.ArgumentTypeError(
            f"{text} has no config.json: give a model's folder, as `save_pretrained` or `qwenlong export` writes it"
        )
    return folder


CLOCKS = {"wall": time.perf_counter, "processor": time.process_time}
"""``processor`` counts the processor seconds of this process. Use it on a busy machine, with ``OMP_NUM_THREADS=1``:
threads that wait for each other count too."""


def seconds(call: Callable[[], Any], clock: str = "wall") -> float:
    """Seconds that one call takes."""
    start = CLOCKS[clock]()
    call()
    return CLOCKS[clock]() - start


def alternate(calls: Mapping[str, Callable[[], Any]], repeats: int, clock: str) -> dict[str, list[float]]:
    """Seconds of every call, ``repeats`` times in alternating order, so that other load affects all calls alike."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats):
        for name in list(calls)[:: -1 if repeat % 2 else 1]:
            times[name].append(seconds(calls[name], clock))
            print(f"  {name}: {times[name][-1]:.2f} s", flush=True)
    return times


def row(times: Mapping[str, list[float]], ours: str, **size: Any) -> Row:
    """A row of the table: the size, median seconds, and each peer's median ratio to ours within a repeat."""
    ratios = {
        f"{name} / {ours}": round(median(peer / own for peer, own in zip(values, times[ours])), 2)
        for name, values in times.items()
        if name != ours
    }
    return {**size, **{f"{name} s": round(median(values), 2) for name, values in times.items()}, **ratios}


def markdown(rows: Sequence[Row]) -> str:
    """The rows as a markdown table."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names), *([str(line.get(name, "")) for name in names] for line in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def save(rows: Sequence[Row], folder: Path, name: str, x: str) -> None:
    """Print the table; save it as JSON and markdown, and a plot of the ratios over ``x`` as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1) + "\n")
    (folder / f"{name}.md").write_text(markdown(rows) + "\n")
    figure, axes = pyplot.subplots(figsize=(6, 4))
    for ratio in (key for key in rows[0] if " / " in key):
        axes.plot([line[x] for line in rows], [line[ratio] for line in rows], marker="o", label=ratio)
    axes.set(xlabel=x, ylabel="times as long")
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.savefig(folder / f"{name}.png", dpi=120, bbox_inches="tight")
    print(markdown(rows))
    print(f"table and plot: {folder}")
