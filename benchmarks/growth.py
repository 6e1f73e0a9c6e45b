"""How time and memory of an update grow: with P at fixed C and G, and with G at fixed P and C.

    python benchmarks/growth.py --model FOLDER --output DIR [--prompts 512 1024 2048 4096] [--groups 2 4 8 16]

Each point is measured in a separate process. Prints fitted exponents (the slope of the logarithms: 1 is linear, 2
quadratic) of seconds and of memory above the loaded model, and writes ``growth.json``, ``growth.md`` and
``growth.png``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from update import measure, measuring
from update_variants import VARIANTS

FIELDS = {"seconds": "seconds", "grown_mb": "memory above the loaded model, MB"}


def exponent(points: list[dict[str, Any]], along: str, field: str) -> float:
    """The least-squares slope of log(field) over log(along)."""
    x, y = (np.log([point[name] for point in points]) for name in (along, field))
    return float(np.polyfit(x, y, 1)[0])


def sweep(args: argparse.Namespace, along: str, values: list[int]) -> list[dict[str, Any]]:
    """Measure every variant at each value of ``along``."""
    fixed = {"prompt": args.prompt, "completion": args.completion, "group": args.group}
    rest = {"checkpointing": args.checkpointing, "ragged": False}
    rows = [row for n in values for row in measure(args, fixed | rest | {along: n}, args.variants)]
    for row in rows:
        if "failed" in row:
            raise RuntimeError(f"{row['variant']} at {along}={row[along]}: {row['failed']}")
        row["along"] = along
    return rows


def fits(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The exponents of every sweep and variant."""
    found = []
    for along, variant in dict.fromkeys((row["along"], row["variant"]) for row in rows):
        points = [row for row in rows if (row["along"], row["variant"]) == (along, variant)]
        found.append({"along": along, "variant": variant} | {field: exponent(points, along, field) for field in FIELDS})
    return found


def markdown(rows: list[dict[str, Any]], found: list[dict[str, Any]]) -> str:
    lines = ["| method | grows with | exponent of seconds | of memory |", "|---|---|---|---|"]
    lines += [f"| {f['variant']} | {f['along']} | {f['seconds']:.2f} | {f['grown_mb']:.2f} |" for f in found]
    lines += ["", "| method | P | C | G | seconds | memory above the model, MB |", "|---|---|---|---|---|---|"]
    names = ("variant", "prompt", "completion", "group")
    lines += [
        "| " + " | ".join([*(str(r[n]) for n in names), f"{r['seconds']:.2f}", f"{r['grown_mb']:.0f}"]) + " |"
        for r in rows
    ]
    return "\n".join(lines) + "\n"


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    figure, axes = plt.subplots(2, 2, figsize=(10, 7))
    for across, along in zip(axes, dict.fromkeys(row["along"] for row in rows)):
        for axis, (field, label) in zip(across, FIELDS.items()):
            for variant in dict.fromkeys(row["variant"] for row in rows):
                points = [row for row in rows if (row["along"], row["variant"]) == (along, variant)]
                axis.loglog([p[along] for p in points], [p[field] for p in points], marker="o", label=variant)
            axis.set_xlabel(along)
            axis.set_ylabel(label)
            axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def parser() -> argparse.ArgumentParser:
    result = measuring(__doc__)
    result.add_argument("--variants", nargs="+", choices=VARIANTS, default=["ours", "loop"])
    result.add_argument("--prompts", type=int, nargs="+", default=[512, 1024, 2048, 4096])
    result.add_argument("--groups", type=int, nargs="+", default=[2, 4, 8, 16])
    result.add_argument("--prompt", type=int, default=1024, help="P while G grows")
    result.add_argument("--completion", type=int, default=64)
    result.add_argument("--group", type=int, default=8, help="G while P grows")
    result.add_argument("--checkpointing", action="store_true")
    return result


def main() -> None:
    args = parser().parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    rows = sweep(args, "prompt", args.prompts) + sweep(args, "group", args.groups)
    found = fits(rows)
    print(markdown(rows, found))
    (args.output / "growth.json").write_text(json.dumps({"points": rows, "exponents": found}, indent=1))
    (args.output / "growth.md").write_text(markdown(rows, found))
    plot(rows, args.output / "growth.png")


if __name__ == "__main__":
    main()
