"""Readers of upstream formats; start reading at ``read.py``."""
