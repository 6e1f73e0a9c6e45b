"""Rehearsals of a plan's longest rows: the trainer's own step on pretended GPUs in place of the formula.

A rehearsal takes a minute, so its result is kept in the work folder under a digest of all that it depends on: the
stage's job, the lengths, the code and the libraries. Whoever plans the same profile again takes it from there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from qwenlong_core.jobs import GRPOJob, SFTJob
from qwenlong_core.rehearsal.rehearse import rehearse_all
from qwenlong_core.rehearsal.report import Peak, peak_from_json
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.files import digest_json, write_json
from qwenlong_core.store.fingerprint import code_digest

_FOLDER = "rehearsals"
_RUN = "qwenlong_core.rehearsal.run"


def _longest(settings: Settings) -> Iterator[tuple[str, SFTJob | GRPOJob, int, int]]:
    """Stage, job, prompt and completion of its longest row. Half of an SFT row is taken to be its solution.

    Packed SFT is left to the formula: rows of equal lengths leave nothing to pack.
    """
    if settings.sft_rows != "none" and not settings.sft.packing:
        half = settings.sft.max_tokens // 2
        yield "sft", SFTJob.of(settings, None), settings.sft.max_tokens - half, half
    for index, phase in enumerate(settings.grpo.phases, 1):
        job = GRPOJob.of(settings, index, None)
        yield f"grpo-{index}", job, phase.max_prompt_tokens, phase.max_completion_tokens


def _files(settings: Settings) -> Iterator[tuple[str, int, int, Path]]:
    """Stage, longest prompt and completion, and the file of its rehearsal."""
    code = code_digest((_RUN,))
    for stage, job, *lengths in _longest(settings):
        name = f"{digest_json([job.model_dump(mode='json'), *lengths, code])}.json"
        yield stage, lengths[0], lengths[1], Path(settings.storage.work_dir) / _FOLDER / name


def known_peaks(settings: Settings) -> dict[str, Peak]:
    """Rehearsals that are kept, by stage. A folder without any is not looked into."""
    if not (Path(settings.storage.work_dir) / _FOLDER).is_dir():
        return {}
    return {
        stage: peak_from_json(json.loads(path.read_text())) for stage, _, _, path in _files(settings) if path.is_file()
    }


def rehearse_stages(settings: Settings) -> dict[str, Peak]:
    """Rehearse every stage of training at its longest row, unless its result is kept.

    Raises:
        NoRehearsal: this machine cannot rehearse, or the model's shape is not known.
        RuntimeError: the step failed, as it would on a GPU.
    """
    missing = [one for one in _files(settings) if not one[3].is_file()]
    steps = [(settings, stage, prompt, completion) for stage, prompt, completion, _ in missing]
    for (_, _, _, path), peak in zip(missing, rehearse_all(steps) if steps else (), strict=True):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, peak.to_json())
    return known_peaks(settings)
