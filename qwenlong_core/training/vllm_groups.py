"""vLLM that samples one group after the other, so that all that runs has one prompt.

vLLM reads a prompt once a step for all of its completions ("cascade attention") only if every request that runs begins
with it. Many groups at once never do. One group at a time does; its price is that the group waits for its longest
completion, and that the weights are read for one group's completions in place of many. Of vLLM 0.31:

* Only its older model runner has cascade attention, and only for eight requests or more that run.
* In a step where no request has a draft, it also wants as many requests times key heads on a GPU as the GPU has
  multiprocessors (132 on an H100). Where speculation has drafted anything, it does not ask.
* Off Hopper GPUs its results were reported to be wrong for long prompts (vLLM's issue 22103): keep an eye on
  ``engine_mismatch``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any


def group_at_a_time(llm: type[Any]) -> type[Any]:
    """``vllm.LLM`` whose ``generate`` gives the engine one run of equal prompts at a time.

    A group is one request with ``n = G``, or, with tensor parallelism, G equal requests. Every process of tensor
    parallelism passes the same list, so all of them take the groups in the same order.

    Args:
        llm: ``vllm.LLM``. It is not imported here.
    """

    class GroupAtATime(llm):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
            super().__init__(disable_cascade_attn=False, **options)

        def generate(self, prompts: Sequence[Mapping[str, Any]], **options: Any) -> list[Any]:
            groups = [list(group) for _, group in groupby(prompts, key=lambda prompt: prompt["prompt_token_ids"])]
            return [output for group in groups for output in super(GroupAtATime, self).generate(group, **options)]

    return GroupAtATime
