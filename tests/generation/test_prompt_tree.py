"""The tree of prompts against its definition, on random prompts with common beginnings."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from qwenlong_core.generation.prompt_tree import MIN_SHARED_TOKENS, paths


@st.composite
def families(draw: st.DrawFn) -> list[list[int]]:
    """Prompts derived from one another, so that common beginnings of every length occur, and equal prompts too."""
    prompts = [draw(st.lists(st.integers(0, 3), min_size=1, max_size=3 * MIN_SHARED_TOKENS))]
    for _ in range(draw(st.integers(0, 6))):
        parent = draw(st.sampled_from(prompts))
        cut = draw(st.integers(0, len(parent)))
        prompts.append(parent[:cut] + draw(st.lists(st.integers(0, 3), min_size=1 - min(cut, 1), max_size=90)))
    return prompts


@given(families())
def test_parts_make_up_the_prompts_and_neighbours_share_them(prompts: list[list[int]]) -> None:
    found = paths(prompts)
    assert sorted(path.index for path in found) == list(range(len(prompts)))
    rows: dict[object, list[int]] = {}
    for row, path in enumerate(found):
        prompt = prompts[path.index]
        joined = [token for part in path.parts for token in part.token_ids]
        assert joined == prompt and path.length == len(prompt)
        starts = [part.start for part in path.parts]
        assert starts == [sum(len(p.token_ids) for p in path.parts[:i]) for i in range(len(starts))]
        assert path.parts[-1].token_ids
        for part in path.parts:
            rows.setdefault(part, []).append(row)
    for part, below in rows.items():
        assert below == list(range(below[0], below[-1] + 1))
        if len(below) > 1:
            assert len(part.token_ids) >= MIN_SHARED_TOKENS
        else:
            assert part is found[below[0]].parts[-1]


@given(families())
def test_no_two_prompts_run_a_long_common_beginning_twice(prompts: list[list[int]]) -> None:
    found = paths(prompts)
    for i, one in enumerate(found):
        for other in found[:i]:
            a, b = prompts[one.index], prompts[other.index]
            alike = next((n for n, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            alike = min(alike, len(a) - 1, len(b) - 1)
            together = sum(len(part.token_ids) for part in one.parts if part in other.parts)
            assert alike - together < MIN_SHARED_TOKENS and together <= alike
