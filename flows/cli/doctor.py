"""``qwenlong doctor``: whether a profile can run on this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import httpx
import typer
from pydantic import BaseModel
from rich.table import Table
from rich.text import Text

from qwenlong.flows.cli.common import Json, Overrides, Profile, busy, console, one_clear_message
from qwenlong.flows.cli.environment import foreign, is_up, other_home
from qwenlong.flows.door import attention_trouble
from qwenlong.flows.meeting_places import MLFLOW, PREFECT, STORE, not_shared
from qwenlong.tasks.judge import obstacle
from qwenlong.tasks.launch import missing_launcher
from qwenlong.tasks.store import open_store
from qwenlong_core.base_tokenizer import base_tokenizer, chat_template_file
from qwenlong_core.bundled import BUNDLED, bundled_file
from qwenlong_core.errors import STAGE_ENVIRONMENT
from qwenlong_core.generation.vllm_check import require_engine
from qwenlong_core.interpreter import Devices, Installed, devices_of, executable, installed_in
from qwenlong_core.plugged import distribution_of, entries, require_plugged
from qwenlong_core.proxies import by_way_of, reached
from qwenlong_core.settings.distill import TeacherSettings
from qwenlong_core.settings.profiles import load_settings
from qwenlong_core.settings.rewards import JudgeSettings, ServeSettings
from qwenlong_core.settings.tree import Settings
from qwenlong_core.store.artifacts import ArtifactError

PACKAGES = ("prefect", "mlflow", "boto3")
"""What the pipeline itself needs, in this interpreter."""
STAGE_PACKAGES = ("torch", "transformers", "trl", "accelerate", "datasets", "vllm", "flash-attn")
"""What the stages need, in theirs (``launch.python``)."""
_OPTIONAL = {"vllm": "only vLLM engines need it", "flash-attn": "torch's own kernels serve"}
_TIMEOUT = 5.0


def doctor(profile: Profile = "local", overrides: Overrides = None, as_json: Json = False) -> None:
    """Check what a profile needs: packages, accelerator, engines, services, keys and rows for each phase.

    Exit code 1 if the profile cannot run on this machine.
    """
    with one_clear_message():
        settings = load_settings(profile, overrides or ())
        with busy(f"looking at what profile {settings.profile} needs"):
            findings = _examine(settings)
    if as_json:
        print(json.dumps([finding.model_dump() for finding in findings]))
    else:
        _print(findings)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


class Finding(BaseModel):
    """The result of one check."""

    topic: str
    ok: bool
    found: str
    mend: str = ""
    """What to do if it is not ok."""


def _examine(settings: Settings) -> list[Finding]:
    """The findings of all checks. A check changes nothing, except that it creates the state folders."""
    return [
        *_packages(PACKAGES, installed_in(None)),
        *_plugged(),
        *_stages(settings),
        _base_model(settings),
        *_sequence_parallel(settings),
        _chat_template(settings),
        *_meeting_places(settings),
        *_judges(settings),
        *_traces(settings),
        *_rows(settings),
        _plan(settings),
    ]


def _packages(names: Iterable[str], installed: Installed, mend: str = "make setup") -> Iterator[Finding]:
    for name in names:
        version = installed.version_of(name.replace("-", "_"))
        if name in _OPTIONAL:
            yield Finding(topic=name, ok=True, found=version or f"not installed; {_OPTIONAL[name]}")
        else:
            yield Finding(topic=name, ok=version is not None, found=version or "missing", mend=mend)


def _plugged() -> Iterator[Finding]:
    """What other distributions add; nothing is said where there is none."""
    try:
        for group, names in require_plugged().items():
            if names:
                origins = {f"{name} ({distribution_of(entry)})" for name, entry in entries(group).items()}
                yield Finding(topic=f"added {group.replace('_', ' ')}", ok=True, found=", ".join(sorted(origins)))
    except ValueError as error:
        yield Finding(topic="added by others", ok=False, found="not usable", mend=str(error))


def _stages(settings: Settings) -> Iterator[Finding]:
    """The interpreter that runs the stages, and what it has."""
    python = settings.launch.python
    try:
        installed, devices = installed_in(python), devices_of(python)
    except ValueError as error:
        yield Finding(topic="stage interpreter", ok=False, found=executable(python), mend=str(error))
        return
    build = f"PyTorch for {'CUDA ' + devices.cuda if devices.cuda else 'the CPU'}"
    yield Finding(topic="stage interpreter", ok=True, found=f"{executable(python)}, {build}")
    yield from _packages(STAGE_PACKAGES, installed, STAGE_ENVIRONMENT if python else "make setup")
    yield from _launcher(settings)
    yield _accelerator(settings, devices)
    yield _attention(settings, devices, installed)
    yield from _engines(settings, installed)


def _launcher(settings: Settings) -> Iterator[Finding]:
    """What starts trainings on several machines; it is needed where they run."""
    if settings.launch.across:
        lacking = missing_launcher(settings.launch)
        yield Finding(topic="launcher", ok=not lacking, found=" ".join(settings.launch.across), mend=lacking or "")


def _accelerator(settings: Settings, devices: Devices) -> Finding:
    count = len(devices.gpus)
    found = ", ".join(devices.gpus) or f"none; CPU with {os.cpu_count()} cores"
    per_machine = settings.launch.num_processes // settings.launch.num_machines
    enough = count >= per_machine or settings.model.dtype == "float32"
    mend = (
        f"profile {settings.profile!r} runs {per_machine} processes per machine in {settings.model.dtype}: use a"
        f" machine with {per_machine} GPUs"
    )
    if not devices.cuda:
        mend += (
            ", and a PyTorch for CUDA: the one in the stage interpreter is built for the CPU, which pip takes where its"
            " settings (`pip config list`) name an index of CPU builds"
        )
    return Finding(topic="accelerator", ok=enough, found=found, mend="" if enough else mend)


def _attention(settings: Settings, devices: Devices, installed: Installed) -> Finding:
    chosen, trouble = settings.model.attention, attention_trouble(settings, devices, installed)
    name = devices.attention if chosen == "auto" else chosen
    return Finding(topic="attention", ok=trouble is None, found=name, mend=trouble or "")


def _engines(settings: Settings, installed: Installed) -> Iterator[Finding]:
    used = {
        "rollout engine": ("grpo", settings.grpo.engine),
        "evaluation engine": ("evaluate", settings.evaluation.engine),
    }
    for topic, (stage, engine) in used.items():
        try:
            require_engine(stage, settings, installed.packages)
        except ValueError as error:
            yield Finding(topic=topic, ok=False, found=engine, mend=str(error))
        else:
            yield Finding(topic=topic, ok=True, found=engine)


def _base_model(settings: Settings) -> Finding:
    name = settings.model.name
    if name in BUNDLED:
        try:
            return Finding(topic="base model", ok=True, found=f"{name}, bundled as {bundled_file().name}")
        except FileNotFoundError as error:
            return Finding(topic="base model", ok=False, found="missing", mend=str(error))
    if Path(name).is_dir():
        return Finding(topic="base model", ok=True, found=f"folder {name}")
    url = _hub_page(name)
    ok = is_up(url, _TIMEOUT)
    mend = (
        ""
        if ok
        else f"the hub does not answer for {name!r}{by_way_of(url)}: download the model elsewhere and set model.name to"
        " its folder"
    )
    return Finding(
        topic="base model", ok=ok, found=f"hub id {name}, {'reachable' if ok else 'not reachable'}", mend=mend
    )


def _sequence_parallel(settings: Settings) -> Iterator[Finding]:
    """Whether the ranks of ``launch.sequence_parallel`` can cut the base model's rows; asked only with several."""
    size, name = settings.launch.sequence_parallel, settings.model.name
    if size == 1:
        return
    from qwenlong_core.training.logprobs.base_check import require_cuttable_base

    try:
        looked_at = require_cuttable_base(settings, fetch=False)
        if not looked_at and is_up(_hub_page(name), _TIMEOUT):
            looked_at = require_cuttable_base(settings, fetch=True)
    except (ValueError, OSError) as error:
        yield Finding(topic="sequence parallel", ok=False, found=str(size), mend=str(error))
        return
    later = "" if looked_at else "; the hub's config.json is not at hand, so its heads are looked at before training"
    yield Finding(topic="sequence parallel", ok=True, found=f"{size} processes to a row{later}")


def _hub_page(name: str) -> str:
    return f"https://huggingface.co/api/models/{name}"


def _chat_template(settings: Settings) -> Finding:
    """Of a hub id only the file of ``model.chat_template`` is looked at; the stage ``base`` refuses the rest first."""
    topic, chosen, name = "chat template", settings.model.chat_template, settings.model.name
    try:
        if Path(name).is_dir() or name in BUNDLED:
            base_tokenizer(settings.model)
        elif chosen is not None:
            chat_template_file(chosen)
    except (ValueError, OSError) as error:
        return Finding(topic=topic, ok=False, found="none", mend=str(error))
    known = Path(name).is_dir() or name in BUNDLED
    found = chosen or ("the model's own" if known else "the model's own, looked at when the base model is imported")
    if settings.model.enable_thinking is not None:
        found = f"{found}, enable_thinking={str(settings.model.enable_thinking).lower()}"
    return Finding(topic=topic, ok=True, found=found)


def _meeting_places(settings: Settings) -> Iterator[Finding]:
    """Prefect, MLflow and the store: each asked, and refused where a pool's workers would not find it."""
    local = not_shared(settings)
    for finding in (_prefect(), _mlflow(settings), _storage(settings)):
        mends = [mend for mend in (finding.mend, local.get(finding.topic)) if mend]
        ok = finding.ok and finding.topic not in local
        yield finding.model_copy(update={"ok": ok, "mend": "; ".join(mends)})


def _prefect() -> Finding:
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    up = bool(url) and is_up(f"{url}/health")
    if up and not os.environ.get("PREFECT_API_URL") and (other := other_home(url)):
        return Finding(topic=PREFECT, ok=False, found=f"{url} is up", mend=foreign(url, other))
    return Finding(topic=PREFECT, ok=True, found=f"{url} is up" if up else "no server is up; a run starts its own")


def _mlflow(settings: Settings) -> Finding:
    from qwenlong.tasks.tracking.client import client_for

    uri = settings.tracking.uri
    try:
        if uri.startswith("http"):
            reached(uri)
            httpx.get(f"{uri}/health", timeout=_TIMEOUT).raise_for_status()  # answers in time, or not
        client_for(settings.tracking).search_experiments(max_results=1)
    except Exception as error:  # whatever a backend raises is the finding
        return Finding(topic=MLFLOW, ok=False, found=uri, mend=f"{type(error).__name__}: {error}")
    return Finding(topic=MLFLOW, ok=True, found=uri)


def _storage(settings: Settings) -> Finding:
    try:
        return Finding(topic=STORE, ok=True, found=open_store(settings).check())
    except ArtifactError as error:
        return Finding(topic=STORE, ok=False, found=settings.storage.uri, mend=str(error))


def _judges(settings: Settings) -> Iterator[Finding]:
    for topic, block in (("training judge", "rewards"), ("evaluation judge", "evaluation")):
        judge: JudgeSettings | None = getattr(settings, block).judge
        if judge is None:
            yield Finding(topic=topic, ok=True, found="none: only rules score answers")
        elif judge.serve is None:
            yield _server(topic, judge)
        else:
            yield _served_judge(topic, block, judge, judge.serve, obstacle(block, settings))


def _served_judge(topic: str, block: str, judge: JudgeSettings, serve: ServeSettings, trouble: str | None) -> Finding:
    gpus = ", ".join(map(str, serve.gpus))
    found = f"{judge.model}, started beside each stage that asks it, on {f'GPU {gpus}' if gpus else 'the CPU'}"
    if trouble is None and not Path(judge.model).is_dir() and not is_up(_hub_page(judge.model), _TIMEOUT):
        trouble = f"the hub does not answer for {judge.model!r}: set {block}.judge.model to a folder with the model"
    return Finding(topic=topic, ok=trouble is None, found=found, mend=trouble or "")


def _server(topic: str, server: JudgeSettings | TeacherSettings) -> Finding:
    assert server.base_url is not None
    if server.api_key_variable and not os.environ.get(server.api_key_variable):
        return Finding(
            topic=topic, ok=False, found=server.base_url, mend=f"set the environment variable {server.api_key_variable}"
        )
    key = os.environ.get(server.api_key_variable or "", "none")
    try:
        reached(server.base_url)
        answer = httpx.get(f"{server.base_url}/models", headers={"Authorization": f"Bearer {key}"}, timeout=_TIMEOUT)
        answer.raise_for_status()
    except (httpx.HTTPError, ConnectionError) as error:
        return Finding(topic=topic, ok=False, found=server.base_url, mend=f"does not answer: {error}")
    return Finding(topic=topic, ok=True, found=f"{server.base_url} answers, model {server.model}")


def _traces(settings: Settings) -> Iterator[Finding]:
    """Where SFT's solutions come from, if they are not those of the rows themselves."""
    from qwenlong_core.data.trace_files import check_trace_files

    distill = settings.distill
    if distill is None:
        return
    if distill.teacher is not None:
        yield _server("teacher", distill.teacher)
    elif not distill.traces:
        found = "no teacher and no traces, so SFT is skipped; for SFT set distill.teacher.base_url and "
        yield Finding(topic="teacher", ok=True, found=f"{found}distill.teacher.model, or distill.traces=FILE")
    for path in distill.traces:
        try:
            check_trace_files([path])
        except ValueError as error:
            yield Finding(topic="traces", ok=False, found=path, mend=str(error))
        else:
            yield Finding(topic="traces", ok=True, found=path)


def _rows(settings: Settings) -> Iterator[Finding]:
    """The rows of each phase, and whether the sources of all splits are there."""
    from qwenlong.flows.cli.doctor_sources import find_sources
    from qwenlong_core.data.prepare import rows_per_phase
    from qwenlong_core.data.sources.read import GENERATED

    limits = [phase.max_prompt_tokens for phase in settings.grpo.phases]
    generated = rows_per_phase(settings.data, limits, settings.seed)
    others = [spec for spec in settings.data.train if spec != GENERATED]
    names = ", ".join(others)
    unknown = f", and those of {names} (counted when the prepare stage reads them)" if others else ""
    below = 0
    for (index, rows), limit in zip(generated.items(), limits):
        found = f"{below:,} < prompt tokens <= {limit:,}: {rows:,} generated rows{unknown}"
        ok = rows > 0 or bool(others)
        mend = "" if ok else f"add a bucket up to {limit} to data.generate_train"
        yield Finding(topic=f"phase {index}", ok=ok, found=found, mend=mend)
        below = limit
    yield from (Finding(**found._asdict()) for found in find_sources(settings.prepared_data))


def _plan(settings: Settings) -> Finding:
    """Whether the profile's stages fit their machine, and how long they take."""
    from qwenlong_core.plan.check import mend, plan_here
    from qwenlong_core.plan.shapes import NoPlan
    from qwenlong_core.plan.tell import in_short

    try:
        plan = plan_here(settings)
    except (NoPlan, ConnectionError) as error:
        return Finding(topic="plan", ok=True, found=f"none: {error}")
    except ValueError as error:
        return Finding(topic="plan", ok=False, found="none", mend=str(error))
    if plan.fits:
        return Finding(topic="plan", ok=True, found=f"{in_short(plan)} (`qwenlong plan`)")
    ok = settings.plan.check == "off"
    return Finding(topic="plan", ok=ok, found="; ".join(plan.faults), mend=mend(plan))


def _print(findings: list[Finding]) -> None:
    table = Table(show_header=False, box=None)
    for finding in findings:
        mark = Text("ok", "green") if finding.ok else Text("no", "red")
        table.add_row(mark, finding.topic, finding.found if finding.ok else f"{finding.found}\n{finding.mend}")
    console(width=140).print(table)
