"""MLflow. Read :mod:`client`, :mod:`runs`, :mod:`outbox` and :mod:`metrics` for runs; :mod:`registry` and
:mod:`champion` for models; :mod:`nights` for the series of nightly evaluations."""
