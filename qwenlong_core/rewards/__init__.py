"""Rewards for training and evaluation: extract -> rules -> judge -> hybrid.

Read the modules in this order: :mod:`extract` (the answer that a completion commits to), :mod:`rules` (whether that
answer equals a gold one, by answer type), :mod:`judge` (a model's verdict where the rules cannot decide) and
:mod:`hybrid` (the score). :mod:`monitor` watches the scores of a training step, :mod:`health` checks the judge before
a run, and :mod:`metrics` holds the benchmarks' own metrics.
"""
