"""One forward and backward over the prompt for all completions of a group.

``packing`` lays a group out as one row, ``attention`` registers attention over such rows with
transformers, ``merged`` and ``flex`` are the kernels, ``check`` compares with separate rows.
"""
