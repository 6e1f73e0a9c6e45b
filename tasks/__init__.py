"""What every stage does, whatever it computes: fetch its inputs, run its process, publish and record its output.

Reading order: :mod:`specs` (the stages, their order and jobs), :mod:`stage` (how one runs), :mod:`stage_task` (its
Prefect task), :mod:`launch` and :mod:`process` (its process), :mod:`results` (its artifact and record),
:mod:`checkpoints` (of a running training).

:mod:`references` and :mod:`models` turn what a person typed into an artifact or a model. :mod:`lineage` traces a model
back, :mod:`inventory` lists and cleans up, :mod:`store` opens the artifact store. The rooms: ``s3`` (the store in a
bucket) and ``tracking`` (MLflow and its registry).
"""
