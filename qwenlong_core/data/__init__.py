"""Training and evaluation rows: prompts, sources, generated documents, preparation."""
