"""What the profiles for a laptop learn: the real pipeline under seeds that are fixed beforehand.

    python benchmarks/local/seeds.py --work DIR                      # `local`: ten runs; one after the other
    python benchmarks/local/seeds.py --work DIR --seeds 3 4          # some of them
    python benchmarks/local/seeds.py --work DIR --profile learn      # `learn`: five runs

A seed draws its own documents and questions for SFT, GRPO and evaluation, and everything that is sampled. Each run has
a state folder of its own in DIR and leaves a small file, ``results/PROFILE/seed-NN.json``, beside this script. A seed
that has one is not run again, whether it was promoted, refused or failed. An interrupted run goes on where it stopped.
The table of all seeds is printed, and written to ``results/PROFILE/table.md``.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "learning"))

from outcome import gain_cell

from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.store.files import digest_json

RESULTS = Path(__file__).parent / "results"
SEEDS = {"local": range(1, 11), "learn": range(1, 6)}
_INTERRUPTED = (130, -2, -9, -15)
"""Exit statuses of a run that somebody stopped; it has no result, and goes on the next time."""


def run_seed(profile: str, seed: int, work: Path, options: Sequence[str]) -> dict[str, Any]:
    """Run the pipeline of a profile under one seed to its end.

    Raises:
        SystemExit: it was interrupted.
    """
    home = work / f"{profile}-{seed}"
    home.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "qwenlong.flows.cli", "run", "--json", "--profile", profile]
    command += ["--set", f"seed={seed}", *options]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (
        (home / "log.txt").open("a") as log,
        subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=log, text=True) as run,
    ):
        # Ctrl-C reaches the run too, which saves a checkpoint and ends; this process waits for that.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        printed, _ = run.communicate()
        signal.signal(signal.SIGINT, handler)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if run.returncode in _INTERRUPTED:
        raise SystemExit(f"seed {seed} was interrupted: run the same command again to go on")
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    if run.returncode:
        last = (home / "log.txt").read_text().splitlines()[-1]
        return {"seed": seed, "promoted": False, "failed": f"exit status {run.returncode}: {last}"}
    return record(seed, json.loads(printed), cpu)


def record(seed: int, result: dict[str, Any], cpu_seconds: float) -> dict[str, Any]:
    """What is kept of a run: the decision, the parts of the gain with their intervals, and the seconds of its stages.

    Args:
        result: What ``qwenlong run --json`` printed.
        cpu_seconds: Of this call alone, user and system, all processes: less than the whole where a run was resumed.
    """
    return {
        "seed": seed,
        "promoted": result["promoted"],
        "promotion": result["promotion"],
        "gain": [row | {"interval": result["gain_intervals"][row["part"]]["gain"]} for row in result["gain"]],
        "seconds": {row["stage"]: row["seconds"] for row in result["stages"]},
        "resumed": any(row["how"] != "ran" for row in result["stages"]),
        "cpu_seconds": round(cpu_seconds),
    }


def settings_digest(profile: str) -> str:
    """Of what a profile sets: results under other settings do not belong in one table. A setting that is new leaves
    them alone as long as the profile keeps its default."""
    return digest_json(load_settings(profile).model_dump(mode="json", exclude_defaults=True))[:12]


def table(results: Sequence[dict[str, Any]]) -> str:
    """One row per seed: the gain over the base model and its parts; a seed that failed stays in it."""
    head = ["seed", "promoted", "items", "readable", "score", "gain over base", "readable before", "over SFT"]
    head += ["never trained on", "CPU s"]
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    lines += [f"| {' | '.join(_cells(result))} |" for result in results]
    promoted = sum(result["promoted"] for result in results)
    whole = [result["gain"][0]["gain"] for result in results if "gain" in result]
    over_sft = [row["gain"] for result in results if (row := _over_sft(result)) is not None]
    both = {"over base": whole, "over SFT": over_sft}
    means = [f"{name} {gain_cell(gains)}" for name, gains in both.items() if len(gains) > 1]
    below = [f"Mean gain with its 95% interval over the seeds (Student's t): {', '.join(means)}."] if means else []
    return "\n".join([*lines, "", f"{promoted} of {len(results)} promoted.", *below]) + "\n"


def _over_sft(result: dict[str, Any]) -> dict[str, Any] | None:
    return next((row for row in result.get("gain", []) if " over sft: " in row["part"]), None)


def _cells(result: dict[str, Any]) -> list[str]:
    if "failed" in result:
        return [str(result["seed"]), "no", result["failed"].replace("|", "/"), *[""] * 7]
    rows = result["gain"]
    whole, sft = rows[0], _over_sft(result)
    readable = next((row for row in rows if row["part"].endswith("the answer was readable before")), None)
    unseen = [f"{_form(row)} {_scores(row)}" for row in rows if "never trained on: " in row["part"]]
    return [
        str(result["seed"]),
        "yes" if result["promoted"] else "no",
        str(whole["items"]),
        f"{whole['readable before']:.2f} to {whole['readable after']:.2f}",
        _scores(whole),
        _gain(whole),
        f"{_scores(readable)} ({readable['items']})" if readable else "",
        _gain(sft) if sft else "",
        ", ".join(unseen),
        f"{result['cpu_seconds']}{' (resumed)' if result['resumed'] else ''}",
    ]


def _form(row: dict[str, Any]) -> str:
    return str(row["part"]).rpartition(": ")[2]


def _scores(row: dict[str, Any]) -> str:
    return f"{row['score before']:.2f} to {row['score after']:.2f}"


def _gain(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['gain']:+.2f}" + ("" if low is None else f" [{low:+.2f}, {high:+.2f}]")


def main() -> None:
    """Run the seeds that have no result yet, and print the table of all that have one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for the state of the runs")
    parser.add_argument("--profile", choices=SEEDS, default="local")
    parser.add_argument("--seeds", type=int, nargs="+", metavar="N", help="by default all of the profile")
    parser.add_argument("--keep", action="store_true", help="keep models and checkpoints of finished runs")
    parser.add_argument("options", nargs="*", help="further options of `qwenlong run`, after `--`")
    args = parser.parse_args()
    allowed = SEEDS[args.profile]
    if wrong := set(args.seeds or ()) - set(allowed):
        parser.error(f"--seeds {min(wrong)}: {args.profile} has the seeds {min(allowed)} to {max(allowed)}")
    folder = RESULTS / args.profile
    folder.mkdir(parents=True, exist_ok=True)
    settings = settings_digest(args.profile)
    for seed in args.seeds or allowed:
        kept = folder / f"seed-{seed:02d}.json"
        if kept.exists():
            if json.loads(kept.read_text())["settings"] != settings:
                parser.error(f"{kept} was made with other settings of the profile: delete it, or restore the profile")
            continue
        print(f"{args.profile}, seed {seed}", file=sys.stderr, flush=True)
        result = run_seed(args.profile, seed, args.work, args.options) | {"settings": settings}
        kept.write_text(json.dumps(result, indent=1) + "\n")
        if not args.keep:
            shutil.rmtree(args.work / f"{args.profile}-{seed}")
    results = [json.loads(path.read_text()) for path in sorted(folder.glob("seed-*.json"))]
    shown = table(results) if results else ""
    (folder / "table.md").write_text(shown)
    print(shown, end="")


if __name__ == "__main__":
    main()
