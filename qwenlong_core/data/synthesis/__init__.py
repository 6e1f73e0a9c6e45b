"""Generated documents with known answers; start reading at ``generate.py``."""
