"""What a number in an answer is: a value, a scale, a unit or currency and a sign.

Read in this order: ``quantity`` (the result), the tables ``scales``, ``currencies``, ``units`` and ``words``, then
``tokens`` (text to tokens), ``amounts`` (tokens to one amount), ``context`` (periods, references, reasons), ``read``
(a whole answer) and ``equal`` (the comparison). The tables are printed in ``docs/rewards.md``.
"""
