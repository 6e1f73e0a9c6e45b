"""RULER (arXiv 2404.06654): thirteen synthetic tasks at any prompt length, made here as its repository makes them.

Reading order: ``tasks`` (the table of the thirteen), ``needles``, ``tracking``, ``counting``, ``questions`` (one family
each), ``copies`` (the texts that are not synthetic), ``generate`` (a task at a length becomes rows).
"""
