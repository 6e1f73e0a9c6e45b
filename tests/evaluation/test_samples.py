"""The log survives a cut last line and refuses what a kill cannot explain."""

from dataclasses import replace

import pytest
from evaluation_tables import make_sample

from qwenlong_core.evaluation.samples import append_samples, read_samples
from qwenlong_core.store.files import drop_cut_line


def test_what_is_written_is_read(tmp_path):
    odd = make_sample("q1", completion='line\u2028separator\u0085\r\nquote" and 中文 \x00')
    append_samples(tmp_path / "log", [make_sample("q0"), odd])
    append_samples(tmp_path / "log", [make_sample("q2", None)])
    assert read_samples(tmp_path / "log") == [make_sample("q0"), odd, make_sample("q2", None)]


def test_every_possible_cut_of_the_last_line_is_dropped(tmp_path):
    log = tmp_path / "log"
    append_samples(log, [make_sample("q0"), make_sample("q1", completion="ü")])
    whole = log.read_bytes()
    second = whole.index(b"\n") + 1
    for end in range(second, len(whole)):
        log.write_bytes(whole[:end])
        drop_cut_line(log)
        assert [s.example_id for s in read_samples(log)] == ["q0"]
    log.write_bytes(whole)
    drop_cut_line(log)
    assert log.read_bytes() == whole


def test_a_missing_log_is_an_empty_one(tmp_path):
    drop_cut_line(tmp_path / "log")
    assert read_samples(tmp_path / "log") == []


def test_a_bad_line_is_named(tmp_path):
    log = tmp_path / "log"
    append_samples(log, [make_sample("q0")])
    with log.open("a") as stream:
        stream.write("{}\n")
    with pytest.raises(ValueError, match=r"log:2 is not a sample"):
        read_samples(log)


def test_a_repeated_sample_is_refused(tmp_path):
    append_samples(tmp_path / "log", [make_sample("q0"), make_sample("q0", sample=1), make_sample("q0", 0)])
    with pytest.raises(ValueError, match=r"log:3 repeats sample \('q0', 0\)"):
        read_samples(tmp_path / "log")


def test_an_unscored_sample_counts_zero_and_keeps_its_status():
    assert make_sample("q", None).accuracy == 0.0
    penalised = replace(make_sample("q").score, value=0.4, length_penalty=-0.6)
    assert make_sample("q", score=penalised).accuracy == 1.0
