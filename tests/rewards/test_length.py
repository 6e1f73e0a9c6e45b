import pytest

from qwenlong_core.rewards.length import LengthLimits, length_penalty


@pytest.mark.parametrize(
    ("tokens", "penalty"),
    [
        (0, 0.0),
        (9_000, 0.0),
        (9_001, -0.001),
        (9_250, -0.25),
        (9_500, -0.5),
        (10_000, -1.0),
        (10_001, -1.0),
        (50_000, -1.0),
    ],
)
def test_penalty_by_hand_for_the_papers_limits(tokens: int, penalty: float) -> None:
    assert length_penalty(tokens, 10_000, 1_000) == pytest.approx(penalty)


def test_penalty_falls_from_the_first_token_when_the_cache_is_the_whole_limit() -> None:
    assert [length_penalty(n, 4, 4) for n in range(6)] == [0.0, -0.25, -0.5, -0.75, -1.0, -1.0]


@pytest.mark.parametrize(("max_tokens", "cache_tokens"), [(10, 0), (10, 11), (0, 0)])
def test_limits_refuse_what_the_formula_cannot_mean(max_tokens: int, cache_tokens: int) -> None:
    with pytest.raises(ValueError, match=f"cache_tokens={cache_tokens}"):
        LengthLimits(max_tokens=max_tokens, cache_tokens=cache_tokens)
