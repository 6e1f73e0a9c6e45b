"""The alarm on entropy collapse. Its state is two numbers, so that a resumed run continues it exactly."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.errors import Alarm
from qwenlong_core.settings.training import EntropyAlarmSettings


class EntropyAlarm(Alarm):
    """The policy's entropy has collapsed; the message says how low it is and for how long."""


@dataclass
class EntropyWatch:
    """Counts consecutive steps of low entropy.

    A step is low if its entropy (nats per token) is below ``floor``, or below ``share`` times that of the first step.
    """

    start: float | None = None
    """Entropy of the first step."""
    low_steps: int = 0

    def see(self, entropy: float | None, settings: EntropyAlarmSettings) -> str | None:
        """Add a step's entropy (``None`` if nothing was measured); returns the alarm's message when it is due."""
        if entropy is None:
            return None
        if self.start is None:
            self.start = entropy
        limit = max(settings.floor, settings.share * self.start)
        self.low_steps = self.low_steps + 1 if entropy < limit else 0
        # Due after ``steps`` low steps, and again after as many more, but not at every step.
        if not self.low_steps or self.low_steps % settings.steps:
            return None
        return (
            f"ENTROPY COLLAPSE: {entropy:.4f} nats per token, below {limit:.4f} for {self.low_steps} steps (it started"
            f" at {self.start:.4f}). The completions of a group hardly differ any more; lower learning_rate, raise"
            " clip_high or temperature, or set a kl_coefficient"
        )
