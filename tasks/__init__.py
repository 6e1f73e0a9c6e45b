"""What every stage does, whatever it computes: fetch its inputs, run its process, publish and record its output.

Reading order: :mod:`specs` (the stages and their jobs), :mod:`stage` (how one runs, and its Prefect task),
:mod:`process` (its process), :mod:`results` (its artifact and record), :mod:`checkpoints` (of a running training).
:mod:`references` and :mod:`models` turn what a person typed into an artifact or a model. :mod:`lineage` traces a model
back, :mod:`inventory` lists and cleans up, :mod:`store` opens the artifact store. The rooms: ``s3`` (the store in a
bucket) and ``tracking`` (MLflow and its registry).
"""
