"""The update over k questions on one document, each with its own group: in one row, and group by group.

    python benchmarks/documents.py --model FOLDER --output DIR [--questions 1 2 4 8] [--group 8]

``ours`` runs the k groups in one forward (``grpo.micro_batch_size = k``), where they share the document; ``groups``
runs a forward and backward for each. A question is the last 64 tokens of a prompt. Each is measured in a process of its
own, with gradient checkpointing.
``of the bound`` is the ratio of their times over the ratio of their FLOPs. Prints the table and writes
``documents.json`` and ``documents.md``.
"""

from __future__ import annotations

import json
from typing import Any

from transformers import AutoConfig
from update import flops, measure, measuring, text
from update_variants import QUESTION

COLUMNS = ("questions", "ours_s", "groups_s", "ratio", "flops", "of the bound", "ours_mb", "groups_mb", "loss apart")


def bound(config: Any, shape: dict[str, Any]) -> float:
    """FLOPs of the groups one by one, over FLOPs of the row that shares the document."""
    prompt, completion, group, k = (shape[name] for name in ("prompt", "completion", "group", "questions"))

    def work(tokens: int, pairs: int) -> float:
        return flops(config, tokens, pairs, k * group * completion, shape["checkpointing"])

    def causal(n: int) -> int:
        return n * (n + 1) // 2

    rows = k * group * (completion * (prompt - 1) + causal(completion))
    document, own = prompt - QUESTION, QUESTION - 1
    apart = work(k * (prompt - 1 + group * completion), k * causal(prompt - 1) + rows)
    shared = causal(document) + k * (own * document + causal(own)) + rows
    return apart / work(document + k * (own + group * completion), shared)


def compare(shape: dict[str, Any], rows: list[dict[str, Any]], config: Any) -> dict[str, Any]:
    """One row of the table from the two methods."""
    for row in rows:
        if "failed" in row:
            raise RuntimeError(f"{row['variant']} with {shape['questions']} questions: {row['failed']}")
    ours, groups = rows
    ratio, most = groups["seconds"] / ours["seconds"], bound(config, shape)
    values = (
        shape["questions"], ours["seconds"], groups["seconds"], ratio, most, ratio / most, ours["grown_mb"],
        groups["grown_mb"], abs(ours["loss"] - groups["loss"]),
    )  # fmt: skip
    return dict(zip(COLUMNS, values, strict=True))


def main() -> None:
    parser = measuring(__doc__)
    parser.add_argument("--prompt", type=int, default=1024)
    parser.add_argument("--completion", type=int, default=64)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--questions", type=int, nargs="+", default=[1, 2, 4, 8])
    args = parser.parse_args()
    args.output.mkdir(parents=True, exist_ok=True)
    config, table = AutoConfig.from_pretrained(args.model), []
    for questions in args.questions:
        shape = {name: getattr(args, name) for name in ("prompt", "completion", "group")}
        shape |= {"questions": questions, "checkpointing": True, "ragged": False}
        table.append(compare(shape, measure(args, shape, ("ours", "groups")), config))
        lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
        lines += ["| " + " | ".join(text(row[name]) for name in COLUMNS) + " |" for row in table]
        (args.output / "documents.md").write_text("\n".join(lines) + "\n")
        (args.output / "documents.json").write_text(json.dumps(table, indent=1))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
