"""Where each data source of a profile is, for ``qwenlong doctor``: here, in the hub's cache, on the hub, or missing."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from qwenlong.flows.cli.environment import is_up
from qwenlong_core.data.ruler.copies import is_ruler, tasks_left_out
from qwenlong_core.data.ruler.tasks import TASKS
from qwenlong_core.data.sources.catalogue import Source
from qwenlong_core.data.sources.places import in_words
from qwenlong_core.data.sources.published import download_command
from qwenlong_core.data.sources.read import GENERATED, from_copies, hub_repo, left_out, local_files
from qwenlong_core.evaluation.benchmarks import known_specs
from qwenlong_core.settings.data import DataSettings

_TIMEOUT = 5.0


class Found(NamedTuple):
    """One source: what it is for, whether it is there, where, and what to do if it is not."""

    topic: str
    ok: bool
    found: str
    mend: str = ""


def find_sources(data: DataSettings) -> Iterator[Found]:
    """Every source that the profile names, of SFT, training and evaluation; generated rows need none."""
    splits = {"SFT data": data.sft, "training data": data.train, "evaluation data": data.eval}
    names = {spec: f"benchmark {name}" for name, spec in known_specs().items()}
    for split, specs in splits.items():
        for spec in specs:
            if spec != GENERATED:
                copies = data.benchmarks_dir if split == "evaluation data" else None
                yield _find(names.get(spec, split) if specs is data.eval else split, spec, copies)


def _find(topic: str, spec: str, copies: str | None) -> Found:
    try:
        if is_ruler(spec):
            return _ruler(spec)
        place = from_copies(spec, Path(copies)) if copies else spec
        files, not_read = local_files(place), left_out(place)
    except ValueError as error:
        return Found(topic, False, spec, str(error))
    hub = hub_repo(place)
    if hub is None:
        others = f"; not read: {in_words(not_read)}" if not_read else ""
        return Found(topic, True, f"{place}: {len(files)} local {'file' if len(files) == 1 else 'files'}{others}")
    return _on_the_hub(topic, *hub, for_evaluation=topic.startswith("benchmark "))


def _ruler(spec: str) -> Found:
    missing = tasks_left_out(spec)
    files = ", ".join(sorted(set(missing.values())))
    left = f"; {', '.join(missing)} need {files}, so there is no average over the thirteen" if missing else ""
    return Found("benchmark ruler", True, f"{spec}: {len(TASKS) - len(missing)} of {len(TASKS)} tasks are made{left}")


def _on_the_hub(topic: str, source: Source, location: str, *, for_evaluation: bool) -> Found:
    repo, _, revision = location.partition("@")
    wanted = f"{source.name}: {', '.join(source.files)} of the hub's {location}"
    if _is_cached(source, repo, revision):
        return Found(topic, True, f"{wanted}, in the hub's cache")
    if _answers(repo):
        return Found(topic, True, f"{wanted}, fetched when the pipeline runs")
    folder = f"DIR/{repo}" if for_evaluation else "DIR"
    setting = "data.benchmarks_dir=DIR" if for_evaluation else f"the source to {source.name}:DIR"
    mend = f"the hub does not answer: fetch it elsewhere with `{download_command(source, location, folder)}`"
    return Found(topic, False, f"{wanted}, not reachable", f"{mend} and set {setting}")


def _is_cached(source: Source, repo: str, revision: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    if any("*" in name for name in source.files):
        return False  # which files match is known to the hub alone
    found = (
        try_to_load_from_cache(repo, name, repo_type="dataset", revision=revision or None) for name in source.files
    )
    return all(isinstance(path, str) for path in found)


@functools.cache
def _answers(repo: str) -> bool:
    from huggingface_hub.constants import ENDPOINT

    return is_up(f"{ENDPOINT}/api/datasets/{repo}", _TIMEOUT)
