"""The servers that later stages will ask, each tried once before the first of these stages is made.

An address, a key or a model's name that cannot work would otherwise be seen after hours of training. A server that is
only busy, or slow to wake up, is no reason to stop: its stage tries again and says so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterator
from typing import Any

from qwenlong.tasks.judge import ASKING
from qwenlong_core.endpoint import Fault, api_key, fault_of
from qwenlong_core.generation.engine import Sampling
from qwenlong_core.generation.openai_engine import sampling_body
from qwenlong_core.proxies import reached
from qwenlong_core.rewards.judge import request_body
from qwenlong_core.settings.distill import TeacherSettings
from qwenlong_core.settings.evaluation import Server, ServerSettings
from qwenlong_core.settings.rewards import JudgeSettings
from qwenlong_core.settings.tree import Settings

logger = logging.getLogger(__name__)

_SECONDS = 60.0
_TOKENS = 16
_QUESTION = "Answer with the word yes."


def require_answers(settings: Settings, families: Container[str]) -> None:
    """Ask every server that these families of stages ask from this machine for one short reply.

    Those of families with a deployment are left out, since their addresses are meant for the workers' hosts, and so is
    a judge that the pipeline starts itself.

    Raises:
        ValueError: it refuses the request, for example because of its key, the model's name or a parameter.
        ConnectionError: nobody answers there.
    """
    seen = set[tuple[Any, ...]]()
    for setting, server in _asked(settings, families):
        path, body = _request(server, settings)
        if (asked := (server.base_url, server.api_key_variable, path, json.dumps(body))) in seen:
            continue
        seen.add(asked)
        fault = _trial(server, setting, path, body)
        if fault is None:
            continue
        told = f"{setting}: {server.base_url} was asked once for model {server.model!r}: {fault.text}"
        if fault.unreachable:
            raise ConnectionError(f"{told}. Start the server or correct {setting}.base_url; nothing was trained for it")
        if not fault.passing:
            sent = ", ".join(name for name in body if name not in ("model", "messages", "prompt"))
            raise ValueError(f"{told}. Correct {setting}.base_url, model or api_key_variable, or what is sent: {sent}")
        logger.warning("%s. It may pass, so the run goes on", told)


def _asked(settings: Settings, families: Container[str]) -> Iterator[tuple[str, JudgeSettings | Server]]:
    """The servers by setting."""
    here = [family for family in ASKING if family in families and family not in settings.execution.deployments]
    blocks = dict.fromkeys(ASKING[family] for family in here)
    judges = {f"{block}.judge": getattr(settings, block).judge for block in blocks}
    found: dict[str, JudgeSettings | Server | None] = {
        name: None if judge is None or judge.serve is not None else judge for name, judge in judges.items()
    }
    if "evaluate" in here:
        found["evaluation.server"] = settings.evaluation.server
    if "distill" in families and "distill" not in settings.execution.deployments and settings.distill is not None:
        found["distill.teacher"] = settings.distill.teacher
    yield from ((name, server) for name, server in found.items() if server is not None)


def _trial(server: JudgeSettings | Server, setting: str, path: str, body: dict[str, Any]) -> Fault | None:
    """What came of one short request; ``None`` if there was a completion, whatever it says."""
    import openai

    assert server.base_url is not None  # one without an address is served by the pipeline
    key = api_key(server.api_key_variable, f"{setting}.api_key_variable")
    seconds = min(_SECONDS, server.timeout_seconds)
    with openai.OpenAI(base_url=reached(server.base_url), api_key=key, max_retries=0, timeout=seconds) as client:
        try:
            reply: Any = client.post(path, body=body, cast_to=object)
        except openai.OpenAIError as error:
            return fault_of(error, seconds)
    if isinstance(reply, dict) and "choices" in reply:
        return None
    return Fault(text=f"a reply without completion: {str(reply)[:200]!r}", passing=False)


def _request(server: JudgeSettings | Server, settings: Settings) -> tuple[str, dict[str, Any]]:
    """The path and body of a request as the stages will send it, but for its question and its short reply."""
    messages = [{"role": "user", "content": _QUESTION}]
    if isinstance(server, JudgeSettings):
        # A reasoning model refuses a limit that leaves no room for its thoughts.
        limit = server.max_tokens if server.reasoning_model else _TOKENS
        return "/chat/completions", request_body(server.model_copy(update={"max_tokens": limit}), messages)
    if isinstance(server, TeacherSettings):
        sampling = Sampling(server.temperature, server.top_p, _TOKENS)
    else:
        sampled = settings.evaluation
        sampling = Sampling(sampled.temperature, sampled.top_p, _TOKENS, stop=sampled.stop)
    body = sampling_body(server.model, sampling) | {"seed": 1}
    if isinstance(server, ServerSettings) and server.endpoint == "completions":
        return "/completions", body | {"prompt": _QUESTION}
    return "/chat/completions", body | {"messages": messages}
