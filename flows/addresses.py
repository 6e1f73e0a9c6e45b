"""The servers that later stages will ask, each tried once before the first of these stages is made.

An address, a key or a model's name that cannot work would otherwise be seen after hours of training. A server that is
only busy, or slow to wake up, is no reason to stop: its stage tries again and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Iterator
from typing import Any

from qwenlong.tasks.judge import ASKING
from qwenlong_core.endpoint import Fault, api_key, fault_of
from qwenlong_core.proxies import reached
from qwenlong_core.rewards.judge import request_body
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
        ValueError: it refuses the request, for example because of its key or the model's name.
        ConnectionError: nobody answers there.
    """
    for setting, server in _asked(settings, families):
        fault = _trial(server, setting)
        if fault is None:
            continue
        told = f"{setting}: {server.base_url} was asked once for model {server.model!r}: {fault.text}"
        if fault.unreachable:
            raise ConnectionError(f"{told}. Start the server or correct {setting}.base_url; nothing was trained for it")
        if not fault.passing:
            raise ValueError(f"{told}. Correct {setting}.base_url, model or api_key_variable")
        logger.warning("%s. It may pass, so the run goes on", told)


def _asked(settings: Settings, families: Container[str]) -> Iterator[tuple[str, JudgeSettings | Server]]:
    """The servers by setting, each once: an equal one is left out."""
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
    seen = set()
    for name, server in found.items():
        if server is not None and (key := (server.base_url, server.model, server.api_key_variable)) not in seen:
            seen.add(key)
            yield name, server


def _trial(server: JudgeSettings | Server, setting: str) -> Fault | None:
    """What came of one short request; ``None`` if there was a completion, whatever it says."""
    import openai

    assert server.base_url is not None  # one without an address is served by the pipeline
    key = api_key(server.api_key_variable, f"{setting}.api_key_variable")
    seconds = min(_SECONDS, server.timeout_seconds)
    path, body = _request(server)
    with openai.OpenAI(base_url=reached(server.base_url), api_key=key, max_retries=0, timeout=seconds) as client:
        try:
            reply: Any = client.post(path, body=body, cast_to=object)
        except openai.OpenAIError as error:
            return fault_of(error, seconds)
    if isinstance(reply, dict) and "choices" in reply:
        return None
    return Fault(text=f"a reply without completion: {str(reply)[:200]!r}", passing=False)


def _request(server: JudgeSettings | Server) -> tuple[str, dict[str, Any]]:
    """The path and body of a request as the stages will send it, but for its short reply."""
    if isinstance(server, ServerSettings) and server.endpoint == "completions":
        return "/completions", {"model": server.model, "prompt": _QUESTION, "max_tokens": _TOKENS}
    messages = [{"role": "user", "content": _QUESTION}]
    if not isinstance(server, JudgeSettings):
        return "/chat/completions", {"model": server.model, "messages": messages, "max_tokens": _TOKENS}
    # A reasoning model refuses a limit that leaves no room for its thoughts.
    limit = server.max_tokens if server.reasoning_model else _TOKENS
    return "/chat/completions", request_body(server.model_copy(update={"max_tokens": limit}), messages)
