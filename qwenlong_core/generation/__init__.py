"""Sampling completions: one interface (:mod:`engine`), several engines behind it."""
