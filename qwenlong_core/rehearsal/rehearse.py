"""Start a rehearsal: settings in, :class:`.report.Peak` out. It needs no torch itself."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.plan.known import KNOWN
from qwenlong_core.rehearsal.report import RESERVE, Peak, Run, peak_of, run_from_json
from qwenlong_core.rehearsal.shim import NoRehearsal, obstacle
from qwenlong_core.settings.model import ModelSettings
from qwenlong_core.settings.tree import Settings

DEPTHS = (3, 5)
"""Layers that are rehearsed. All layers are alike; with three of them the first, the last and one between are there."""


def model_shape(settings: ModelSettings) -> dict[str, Any]:
    """The config of the settings' model: of its folder, or of the table of the profiles' models.

    Raises:
        NoRehearsal: it is neither a folder with ``config.json`` nor in the table.
    """
    file = Path(settings.name) / "config.json"
    if file.is_file():
        shape: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return shape
    if settings.name not in KNOWN:
        raise NoRehearsal(
            f"model.name={settings.name!r}: its shape is not known here. Download its config.json into a folder and "
            f"name the folder, or use one of {', '.join(KNOWN)}"
        )
    return dict(KNOWN[settings.name])


def rehearse(
    settings: Settings, stage: str, prompt_tokens: int, completion_tokens: int, layers: int | None = None
) -> Peak:
    """Run one step of a stage on pretended GPUs, and report the memory and work of one of them.

    Where processes share a row, it is the last of them, which holds the completions.

    Args:
        settings: Of the run.
        stage: ``sft``, ``grpo-1``, ``grpo-2`` and so on.
        prompt_tokens: P of every group, or of every row of SFT.
        completion_tokens: C of every completion, or of every row's solution.
        layers: Rehearse a model of this depth. ``None`` takes the model's own, by the linear rule of
            :func:`.report.peak_of` from :data:`DEPTHS`: every layer takes the same.

    Raises:
        NoRehearsal: this machine cannot rehearse, the model's shape is not known, or the stage or a setting cannot be
            rehearsed.
        RuntimeError: the step failed: it has an error that a GPU would show as well. The message ends with it.
    """
    return rehearse_all([(settings, stage, prompt_tokens, completion_tokens)], layers)[0]


def rehearse_all(steps: Sequence[tuple[Settings, str, int, int]], layers: int | None = None) -> list[Peak]:
    """:func:`rehearse` for several steps. Half of the time for one goes into imports, so neighbours share a process.

    They do if their launch settings are equal: a process pretends to be in one group of ranks, and cannot leave it.

    Args:
        steps: Settings, stage, prompt tokens and completion tokens of each.
        layers: As in :func:`rehearse`.
    """
    reason = obstacle()
    if reason is not None:
        raise NoRehearsal(reason)
    asked = [_asked(*step, layers) for step in steps]
    found = [runs for _, alike in groupby(asked, lambda one: one["job"]["launch"]) for runs in run_process(list(alike))]
    return [
        peak_of(
            runs,
            layers or one["shape"]["num_hidden_layers"],
            # A forward of SFT brings its own rows; those of GRPO wait in the batch.
            runs[0].forwards if stage == "sft" else forwards_per_batch(settings),
            RESERVE,
        )
        for (settings, stage, *_), one, runs in zip(steps, asked, found, strict=True)
    ]


def forwards_per_batch(settings: Settings) -> int:
    """Forwards of a rollout batch on one process."""
    holders = settings.launch.num_processes // settings.launch.sequence_parallel
    return settings.grpo.batch_size // holders // settings.grpo.micro_batch_size


def _asked(settings: Settings, stage: str, prompt: int, completion: int, layers: int | None) -> dict[str, Any]:
    if not re.fullmatch(r"sft|grpo-[1-9]\d*", stage):
        raise NoRehearsal(f"stage {stage!r} cannot be rehearsed: only sft and phases of GRPO can, such as grpo-1")
    if stage == "sft" and settings.sft.packing:
        raise NoRehearsal(
            "sft.packing cannot be rehearsed, as rows of equal lengths leave nothing to pack: set it to false"
        )
    if settings.launch.activation_offload:
        raise NoRehearsal("launch.activation_offload cannot be rehearsed, as it copies to real memory: set it to false")
    shape = model_shape(settings.model)
    depth = layers or shape["num_hidden_layers"]
    return {
        "job": _job(settings, stage).model_dump(mode="json"),
        "shape": shape,
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "layers": [depth] if layers or depth <= DEPTHS[-1] else DEPTHS,
    }


def _job(settings: Settings, stage: str) -> GRPOJob | SFTJob:
    return SFTJob.of(settings, None) if stage == "sft" else GRPOJob.of(settings, int(stage.removeprefix("grpo-")), None)


def run_process(asked: Sequence[dict[str, Any]]) -> list[list[Run]]:
    """The runs that :mod:`.run` prints for a job file of these contents, one of each depth.

    Raises:
        RuntimeError: it failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(asked), encoding="utf-8")
        command = [sys.executable, "-m", "qwenlong_core.rehearsal.run", "--job", str(file)]
        # No GPU of this machine is to be seen, and no setting of an outer launcher.
        outer = {k: v for k, v in os.environ.items() if not k.startswith(("ACCELERATE_", "FSDP_"))}
        done = subprocess.run(command, capture_output=True, text=True, env=outer | {"CUDA_VISIBLE_DEVICES": ""})
    if done.returncode:
        raise RuntimeError(f"the rehearsed step failed:\n{done.stderr[-4000:]}")
    return [[run_from_json(run) for run in runs] for runs in json.loads(done.stdout.strip().splitlines()[-1])]
