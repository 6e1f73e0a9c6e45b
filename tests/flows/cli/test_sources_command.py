import json

import typer
from typer.testing import CliRunner

from qwenlong.flows.cli.sources import sources
from qwenlong_core.data.sources.catalogue import SOURCES

app = typer.Typer()
app.command()(sources)


def test_every_source_says_where_it_can_be_had() -> None:
    listed = json.loads(CliRunner().invoke(app, ["--json"]).stdout)
    assert [row["name"] for row in listed] == list(SOURCES)
    assert all(row["where"] and row["licence"] and row["size"] for row in listed)


def test_the_table_names_hub_ids() -> None:
    result = CliRunner().invoke(app, [])
    assert result.exit_code == 0
    assert "Tongyi-Zhiwen/DocQA-RL-1.6K" in result.stdout
