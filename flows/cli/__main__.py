"""``qwenlong``, and ``python -m qwenlong.flows.cli`` where its script is not on the path."""

from __future__ import annotations

from importlib.util import find_spec


def start() -> None:
    """Entry point of the console command.

    An environment that only runs stages has the command too, but not the libraries it needs.
    """
    if missing := [name for name in ("prefect", "mlflow", "boto3", "typer") if find_spec(name) is None]:
        raise SystemExit(
            f"error: the command needs {', '.join(missing)}: run `make setup` in a checkout, or install the wheel with "
            "its extra `control`. An environment without them can run stages: set launch.python to its interpreter"
        )
    from qwenlong.flows.cli.main import main

    main()


if __name__ == "__main__":
    start()
