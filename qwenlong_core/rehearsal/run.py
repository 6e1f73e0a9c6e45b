"""The process that rehearses: ``python -m qwenlong_core.rehearsal.run --job job.json`` prints JSON.

The job file is a list; each entry has ``job`` (a :class:`.jobs.GRPOJob` or :class:`.jobs.SFTJob`), ``shape`` (a
model's config), ``prompt_tokens``, ``completion_tokens`` and ``layers`` (a list of depths). The last line printed has,
for each entry, a :class:`.report.Run` of each depth. :func:`.rehearse.rehearse` writes such a file and starts the
process.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from qwenlong_core.rehearsal.shim import NoRehearsal, load_shim


def main() -> None:
    """Rehearse what ``--job`` says and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", type=Path, required=True)
    asked = json.loads(parser.parse_args().job.read_text(encoding="utf-8"))
    try:
        load_shim()
    except NoRehearsal as error:
        sys.exit(str(error))
    from qwenlong_core.rehearsal.stage import rehearsed  # torch may be imported from here on

    with tempfile.TemporaryDirectory() as work:
        print(json.dumps([[asdict(run) for run in rehearsed(one, Path(work))] for one in asked]))


if __name__ == "__main__":
    main()
