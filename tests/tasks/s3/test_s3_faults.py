"""A few faults of every kind between the store and a real server; ``tests/s3_faults.py`` makes a thousand."""

from __future__ import annotations

import pytest
import s3_faults

import qwenlong.tasks.s3.client


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_under_faults_no_wrong_byte_is_accepted_and_nothing_is_left(s3_server, bucket, tmp_path, monkeypatch):
    if s3_faults.mitmdump() is None:
        pytest.skip("no mitmdump: make test-s3 installs it in a venv of its own")
    monkeypatch.setattr(
        qwenlong.tasks.s3.client, "READ_SECONDS", qwenlong.tasks.s3.client.READ_SECONDS
    )  # put back afterwards
    trial, _, left = s3_faults.run(tmp_path, s3_server, bucket, each=4)
    assert left == []
    for kind, count in trial.counts.items():
        assert count["injected"] >= 1 and count["fetched"] >= 1, kind
        assert count["wrong bytes"] == count["half-written read as whole"] == 0, kind
