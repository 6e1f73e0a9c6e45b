"""The autorater of FRAMES: the prompt by which its authors have a model score answers (arXiv 2409.12941, figure 6).

It is the benchmark's own metric, reported beside our score, and never a reward. The wording is the paper's; the answer
that it quotes is the extracted one, and text that is no answer is not asked about.
"""

from __future__ import annotations

import re

from qwenlong_core.rewards.judge_prompt import quoted

_PROMPT = """===Task===
I need your help in evaluating an answer provided by an LLM against a ground truth answer. Your task is to determine \
if the ground truth answer is present in the LLM's response. Please analyze the provided data and make a decision.
===Instructions===
1. Carefully compare the "Predicted Answer" with the "Ground Truth Answer".
2. Consider the substance of the answers - look for equivalent information or correct answers. Do not focus on exact \
wording unless the exact wording is crucial to the meaning.
3. Your final decision should be based on whether the meaning and the vital facts of the "Ground Truth Answer" are \
present in the "Predicted Answer:"
===Input Data===
- Question: {question}
- Predicted Answer: {answer}
- Ground Truth Answer: {gold}
===Output Format===
Provide your final evaluation in the following format:
"Explanation:" (How you made the decision?)
"Decision:" ("TRUE" or "FALSE" )
Please proceed with the evaluation."""
REMINDER = 'Your reply had no decision. Reply now with exactly "Decision: TRUE" or "Decision: FALSE" and nothing else.'

_DECISION = re.compile(r"""\bDecision:?\W*(TRUE|FALSE)\b""", re.IGNORECASE)


def autorater_messages(question: str, golds: tuple[str, ...], answer: str) -> list[dict[str, str]]:
    """The chat of one rating, against the first gold: FRAMES has one."""
    shown, candidate = quoted(question, golds, answer)
    return [{"role": "user", "content": _PROMPT.format(question=shown, answer=candidate, gold=golds[0])}]


def read_decision(reply: str) -> bool | None:
    """The decision of a reply that makes one; ``None`` for none, or for two that differ."""
    said = {decision.upper() for decision in _DECISION.findall(reply)}
    return said == {"TRUE"} if len(said) == 1 else None
