"""Names of the files in a prepared data artifact, for the code that writes them and the code that reads them.

A module of its own, so that a reader of one name does not depend on the whole of preparation.
"""

from __future__ import annotations

SFT_ROWS, TRAIN_ROWS, EVAL_ROWS = "sft.parquet", "train.parquet", "eval.parquet"
"""Rows with a worked solution, rows for GRPO, and rows for evaluation."""
ROWS = {"sft": SFT_ROWS, "train": TRAIN_ROWS, "eval": EVAL_ROWS}
"""The rows of each split."""
SUMMARY = "summary.json"
"""Rows kept, refused and dropped in each split, with their lengths."""
UNTRAINED = "untrained"
"""Marks an evaluation row, in its metadata, whose form of question no generated row of SFT or GRPO has."""
