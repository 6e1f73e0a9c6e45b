"""Files as people have them: nothing in a file or folder is passed over in silence."""

import bz2
import codecs
import csv
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from qwenlong_core.data.sources.files import records
from qwenlong_core.data.sources.places import files_at
from qwenlong_core.data.sources.read import left_out, local_files, read_source
from qwenlong_core.data.sources.validation import Refused

ROWS: list[dict[str, Any]] = [{"id": f"r{i}", "question": f"Wer fährt {i}?"} for i in range(4)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def put(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


def ids(path: Path) -> list[str]:
    """The id of every record, and every reason in place of one."""
    return [record if isinstance(record, str) else record["id"] for _, record in records(path)]


ALL = [row["id"] for row in ROWS]
LISTS = json.dumps(ROWS[:2]) + "\n" + json.dumps(ROWS[2:])


@pytest.mark.parametrize(
    "text",
    [
        LISTS,
        LISTS.replace("\n", ""),
        json.dumps(ROWS[:2]) + "\n" + "\n".join(json.dumps(row) for row in ROWS[2:]),
        "\n".join(json.dumps(row, indent=1) for row in ROWS),
        JSONL.decode(),
        json.dumps({"data": ROWS[:2]}) + json.dumps({row["id"]: row for row in ROWS[2:]}),
    ],
    ids=["two lists", "without a break", "rows after a list", "one by one", "lines", "objects"],
)
def test_every_value_of_a_json_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert ids(put(tmp_path / "x.json", text)) == ALL
    monkeypatch.setattr("qwenlong_core.data.sources.jsontext._CHUNK_CHARACTERS", 7)
    assert ids(tmp_path / "x.json") == ALL


@pytest.mark.parametrize(
    ("text", "reasons"),
    [
        (json.dumps(ROWS) + " and more", ["not valid JSON from here on: Expecting value"]),
        (json.dumps(ROWS) + "17", ["a int, not an object"]),
        (json.dumps(ROWS)[:-1], ["not valid JSON from here on: Expecting value"]),
        (json.dumps(ROWS)[:-1] + ", [" + "[" * 100_000, ["not valid JSON from here on: nested too deeply"]),
        (json.dumps({"data": ROWS, "dev": ROWS}), ["rows under 'dev' beside 'data': give each list a file of its own"]),
        (json.dumps(ROWS)[:-1] + ', {"a": 1, "a": 2}]', ["an object has two different values under 'a'"]),
    ],
    ids=["text", "a number", "no end", "depth", "two lists of one object", "a key twice"],
)
def test_what_cannot_be_read_after_the_rows_has_a_reason(tmp_path: Path, text: str, reasons: list[str]) -> None:
    assert ids(put(tmp_path / "x.json", text)) == [*ALL, *reasons]


def test_a_key_given_twice_is_refused_unless_both_say_the_same(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", b'{"id": "a", "n": 1, "id": "b"}\n{"id": "c", "id": "c"}\n')
    assert ids(path) == ["an object has two different values under 'id'", "c"]


@pytest.mark.parametrize("kind", [".jsonl", ".JSONL", ".ndjson", ".json"])
@pytest.mark.parametrize(
    ("ending", "compress"),
    [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress), (".XZ", lzma.compress), (".zst", zstd)],
)
def test_compressed_files_of_any_case_are_read_from_a_folder(
    tmp_path: Path, kind: str, ending: str, compress: Any
) -> None:
    path = put(tmp_path / f"rows{kind}{ending}", compress(JSONL))
    assert local_files(str(tmp_path)) == [path] and ids(path) == ALL


@pytest.mark.parametrize(("ending", "compress"), [(".bz2", bz2.compress), (".xz", lzma.compress), (".zst", zstd)])
def test_a_compressed_file_cut_in_the_middle_is_refused_from_there(tmp_path: Path, ending: str, compress: Any) -> None:
    whole = compress("".join(json.dumps({"id": os.urandom(400).hex()}) + "\n" for _ in range(2_000)).encode())
    *read, last = ids(put(tmp_path / f"x.jsonl{ending}", whole[: len(whole) // 2]))
    assert last.startswith("the compressed file is damaged from here on") and len(read) < 2_000


@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.json", "x.csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(tmp_path: Path, name: str) -> None:
    text = b"id,question\nr0,a\n" if name.endswith(".csv") else JSONL
    data = codecs.BOM_UTF8 + text
    found = ids(put(tmp_path / name, gzip.compress(data) if name.endswith(".gz") else data))
    assert found == (["r0"] if name.endswith(".csv") else ALL)


def test_files_with_marks_may_be_joined(tmp_path: Path) -> None:
    assert ids(put(tmp_path / "x.jsonl", (codecs.BOM_UTF8 + JSONL) * 2)) == ALL * 2


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv"])
def test_another_encoding_is_named_once(tmp_path: Path, name: str, encoding: str) -> None:
    (reason,) = ids(put(tmp_path / name, JSONL.decode().encode(encoding)))
    expected = "UTF-32" if encoding == "utf-32" else "UTF-16"
    assert f"the file is {expected}, not UTF-8: convert it (iconv -f {expected}" in reason


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "x.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["id", "answer", "answer"], ["a", "yes", "no"]])
    assert ids(tmp_path / "x.csv") == ["several columns named 'answer': give each a name of its own"]


def test_an_integer_of_any_length_is_one_row_or_one_reason(tmp_path: Path) -> None:
    row = '{"id": "r%d", "domain": "math", "context": "c", "question": "q", "answers": [%s]}\n'
    path = put(tmp_path / "x.jsonl", row % (0, "7" * 20) + row % (1, "7" * 5_000) + row % (2, "8"))
    first, second, third = read_source(str(path))
    assert not isinstance(first, Refused) and (first.answer_type, first.answers) == ("number", ("7" * 20,))
    assert isinstance(second, Refused) and second.line == 2 and "5,000 characters" in second.reason
    assert not isinstance(third, Refused) and third.answers == ("8",)


def a_folder(root: Path) -> Path:
    """A folder as people have them."""
    folder = root / "data"
    for name in ("a.jsonl", "sub/b.NDJSON", "sub/deep/c.json.gz"):
        put(folder / name, gzip.compress(JSONL) if name.endswith(".gz") else JSONL)
    for name in (".ipynb_checkpoints/a-checkpoint.jsonl", ".a.jsonl.swp", "sub/._b.jsonl", "README.md", "a.jsonl~"):
        put(folder / name, JSONL)
    put(folder / "LICENSE", "MIT")
    put(folder / "d.arrow", b"ARROW1")
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "sub" / "up").symlink_to(folder)
    put(root / "elsewhere" / "e.jsonl", JSONL)
    (folder / "linked").symlink_to(root / "elsewhere")
    return folder


def test_a_folder_is_read_whole_and_what_is_left_out_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = a_folder(tmp_path)
    found = files_at(str(folder))
    assert [str(path.relative_to(folder)) for path in found.files] == [
        "a.jsonl",
        "linked/e.jsonl",
        "sub/b.NDJSON",
        "sub/deep/c.json.gz",
    ]
    assert {str(path.relative_to(folder)): reason for path, reason in found.left_out} == {
        ".ipynb_checkpoints": "hidden",
        ".a.jsonl.swp": "hidden",
        "sub/._b.jsonl": "hidden",
        "README.md": "with the ending '.md'",
        "a.jsonl~": "with the ending '.jsonl~'",
        "LICENSE": "without an ending",
        "d.arrow": "with the ending '.arrow'",
        "pipe.jsonl": "not a regular file",
        "sub/up": "a folder that is read already",
    }
    assert left_out(str(folder)) == found.left_out
    list(read_source(str(folder)))
    assert "3 hidden" in caplog.text and "README.md" in caplog.text


def test_a_glob_follows_the_same_rule(tmp_path: Path) -> None:
    folder = a_folder(tmp_path)
    found = files_at(str(folder / "*"))
    assert [path.name for path in found.files] == ["a.jsonl"]
    reasons = {path.name: reason for path, reason in found.left_out}
    assert reasons["sub"] == "a folder" and reasons[".ipynb_checkpoints"] == "hidden" and reasons["README.md"]
    deep = files_at(str(folder / "**" / "*.json*"))
    assert [path.name for path in deep.files if "up" not in path.parts] == ["a.jsonl", "e.jsonl", "c.json.gz"]
    assert "a-checkpoint.jsonl" in {path.name for path, _ in deep.left_out}


@pytest.mark.parametrize("place", ["", "*.jsonl", "lost.jsonl"])
def test_a_link_that_leads_nowhere_is_an_error(tmp_path: Path, place: str) -> None:
    put(tmp_path / "a.jsonl", JSONL)
    (tmp_path / "lost.jsonl").symlink_to("/gone/b.jsonl")
    with pytest.raises(ValueError, match=r"1 links lead nowhere \(.*lost\.jsonl -> /gone/b\.jsonl\): restore"):
        local_files(str(tmp_path / place))


def test_a_folder_without_rows_says_what_it_holds(tmp_path: Path) -> None:
    put(tmp_path / "rows.xlsx", b"PK")
    with pytest.raises(ValueError, match=r"no file matches .*Left out there: 1 with the ending '\.xlsx'.*rows\.xlsx"):
        local_files(str(tmp_path))
