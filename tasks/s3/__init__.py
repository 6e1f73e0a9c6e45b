"""The artifact store in a bucket. Reading order: :mod:`store`, :mod:`transfer`, :mod:`client`, :mod:`read_cache`."""
