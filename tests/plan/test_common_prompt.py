"""The plan's rule for a prompt that is read once, against vLLM's own: ``make test-vllm``."""

from __future__ import annotations

import pytest
from plans import A3B, B14, B32, H100

from qwenlong_core.plan.rollout import Engine, least_group


@pytest.mark.vllm
@pytest.mark.parametrize("drafts", [False, True])
@pytest.mark.parametrize(("shape", "parallel"), [(B14, 1), (B14, 2), (B14, 8), (B32, 4), (A3B, 1), (A3B, 4)])
def test_the_least_group_is_the_first_for_which_vllm_reads_it_once(shape, parallel, drafts):
    import numpy as np
    from vllm.v1.attention.backends.flash_attn import use_cascade_attention

    def once(running: int) -> bool:
        return use_cascade_attention(
            common_prefix_len=90_000,
            query_lens=np.full(running, 1 + drafts),
            num_query_heads=shape.heads // parallel,
            num_kv_heads=max(1, shape.kv_heads // parallel),
            use_alibi=False,
            use_sliding_window=False,
            use_local_attention=False,
            num_sms=132,
            dcp_world_size=1,
        )

    engine = Engine(devices=8, parallel=parallel, memory=H100.memory, tokens_a_step=1.8 if drafts else 1.0)
    least = least_group(shape, engine)
    assert once(least)
    assert not any(once(running) for running in range(1, least))
