"""The alarm on entropy collapse: its state is two numbers, so a resumed run goes on with it exactly."""

from __future__ import annotations

from dataclasses import dataclass

from qwenlong_core.errors import Alarm
from qwenlong_core.settings.training import EntropyAlarmSettings


class EntropyAlarm(Alarm):
    """The policy's entropy has collapsed; the message says how far and for how long."""


@dataclass
class EntropyWatch:
    """Counts low steps in a row.

    A step is low when its entropy (nats per token) is below ``floor`` or below ``share`` of the first
    step's.
    """

    start: float | None = None
    """The first step's entropy."""
    low_steps: int = 0

    def see(self, entropy: float | None, settings: EntropyAlarmSettings) -> str | None:
        """Take in a step, ``None`` where nothing was measured; returns the alarm's words when it is due."""
        if entropy is None:
            return None
        if self.start is None:
            self.start = entropy
        limit = max(settings.floor, settings.share * self.start)
        self.low_steps = self.low_steps + 1 if entropy < limit else 0
        if not self.low_steps or self.low_steps % settings.steps:
            return None
        return (
            f"ENTROPY COLLAPSE: {entropy:.4f} nats per token, below {limit:.4f} for {self.low_steps} steps (it started"
            f" at {self.start:.4f}). Completions of a group hardly differ any more; lower learning_rate, raise"
            " clip_high or temperature, or set a kl_coefficient"
        )
