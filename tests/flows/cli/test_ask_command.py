"""``qwenlong ask`` from the console: the answer on stdout, all else on stderr, clear refusals."""

import os
from pathlib import Path

import pytest
from endpoint_server import served, sse
from typer.testing import CliRunner

from qwenlong.flows.cli.main import app


def call(*arguments):
    return CliRunner().invoke(app, ["ask", *map(str, arguments)])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    from qwenlong_core.models import import_base
    from qwenlong_core.settings.model import ModelSettings

    root = tmp_path_factory.mktemp("ask")
    import_base(ModelSettings(name="tiny"), root / "policy")
    (root / "note.md").write_text("# Note\n\nThe rent is 12 dollars.\n")
    (root / "long.txt").write_text("Word after word. " * 6_000 + "The end.")
    (root / "table.json").write_text('{"rent": 12}')
    (root / "broken.json").write_text('{"rent": ')
    (root / "blank.txt").write_text(" \n")
    (root / "picture.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (root / "latin.txt").write_bytes("Stra\xdfe".encode("latin-1"))
    before = Path.cwd()
    os.chdir(root)
    yield root
    os.chdir(before)


def asked(server, *arguments):
    done = call("--question", "How much?", "--model", "policy", "--server", server.url, *arguments)
    assert done.exit_code == 0, done.stderr
    return done


THOUGHT = [
    {"content": "<thi"},
    {"content": "nk>12"},
    {"content": " it says</th"},
    {"content": "ink>\n\nIt is"},
    {"content": " 12."},
]


def test_the_articles_prompt_and_sampling_go_out_and_the_answer_alone_to_stdout(place):
    with served(lambda n, request: sse(*THOUGHT)) as server:
        done = asked(server, "--document", "note.md")
        body = server.requests[0]
    content = "Analyze the following document:\n<text># Note\n\nThe rent is 12 dollars.\n</text>\nQuestion: How much?"
    assert body["messages"] == [{"role": "user", "content": content}]
    assert (body["temperature"], body["top_p"], body["max_tokens"]) == (0.7, 0.95, 2048)
    assert done.stdout == "It is 12.\n"
    assert "thinking ... 3 tokens" in done.stderr and "it says" not in done.stderr
    assert "the context of policy is 8,192 tokens: an answer may take 2,048, not the recommended 10,000" in done.stderr


def test_thinking_is_shown_when_asked_for_and_json_is_given_as_it_is(place):
    with served(lambda n, request: sse(*THOUGHT)) as server:
        done = asked(server, "--document", "table.json", "--show-thinking", "--max-tokens", 50)
        assert '<text>{"rent": 12}</text>' in server.requests[0]["messages"][0]["content"]
        assert server.requests[0]["max_tokens"] == 50
    assert done.stdout == "12 it says\n\nIt is 12.\n"


def test_what_was_cut_is_said_and_only_the_middle_is(place):
    with served(lambda n, request: sse({"content": "Yes."})) as server:
        done = asked(server, "--document", "long.txt")
        sent = server.requests[0]["messages"][0]["content"]
    assert "<text>Word after" in sent and sent.endswith("The end.</text>\nQuestion: How much?") and len(sent) < 40_000
    assert "in the middle are left out" in done.stderr


def test_an_answer_that_never_came_is_said(place):
    with served(lambda n, request: sse({"content": "<think>on and on"})) as server:
        done = asked(server, "--document", "note.md")
    assert done.stdout == "\n" and "still thinking when it ended, so there is no answer" in done.stderr


def test_a_model_in_this_process_answers_within_its_limit(place):
    done = call("--question", "How much?", "--model", "policy", "--document", "note.md", "--max-tokens", 6, "--seed", 1)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout) > 1 and "policy: cut off at the limit of 6 tokens (--max-tokens)" in done.stderr


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ("nowhere.txt", "does not exist"),
        (".", "is a folder: name one file"),
        ("blank.txt", "is empty"),
        ("picture.png", "is not UTF-8 text (byte 8: a zero byte): convert it to text first"),
        ("latin.txt", "is not UTF-8 text (byte 4"),
        ("broken.json", "is not valid JSON"),
    ],
)
def test_a_document_that_cannot_be_read_is_refused_before_any_model_is_loaded(place, document, said):
    done = call("--question", "How much?", "--model", "no-model", "--document", document)
    assert done.exit_code == 2 and said in " ".join(done.stderr.split()), done.stderr


def test_other_mistakes(place):
    for arguments, said in (
        (("--question", " "), "--question is empty"),
        (("--question", "x", "--max-tokens", 8192), "leaves no room for the document in a context of 8,192"),
        (("--question", "x", "--engine", "openai"), "go together"),
        (("--question", "x", "--seed", -1), "--seed"),
    ):
        done = call("--model", "policy", "--document", "note.md", *arguments)
        assert done.exit_code == 2 and said in " ".join(done.stderr.split()), done.stderr


@pytest.mark.slow
def test_the_bundled_model_answers(place):
    done = call(
        "--question", "What is the rent in dollars?", "--document", "note.md", "--max-tokens", 60, "--temperature", 0
    )
    assert done.exit_code == 0 and "12" in done.stdout, done.stderr


def example(server, name, *arguments):
    done = call("--example", name, "--model", "policy", "--server", server.url, *arguments)
    assert done.exit_code == 0, done.stderr
    return done, server.requests[0]["messages"][0]["content"]


def test_an_example_writes_its_document_asks_about_it_and_scores_the_answer(place):
    with served(lambda n, request: sse(*THOUGHT[:3], {"content": "ink>So the answer is $32.4 million."})) as server:
        done, sent = example(server, "bond")
    said = " ".join(done.stderr.split())
    written = (place / ".qwenlong/examples/bond-short.txt").read_text()
    assert f"<text>\n{written}\n</text>" in sent
    assert "document: .qwenlong/examples/bond-short.txt (short, as the full report does not fit into 6,144" in said
    assert "question: What did the senior notes cost" in said
    assert done.stdout == "So the answer is $32.4 million.\n"
    assert said.endswith("right ('$32.4 million' equals gold '$32.4 million'); the right answer is $32.4 million")


@pytest.mark.parametrize(
    ("answer", "verdict"), [("Therefore, the answer is $904,615.", "wrong ("), ("I cannot say.", "no answer (")]
)
def test_an_example_that_is_missed_says_what_was_right(place, answer, verdict):
    with served(lambda n, request: sse({"content": answer})) as server:
        done, sent = example(server, "debt")
    assert "$9,046,154" in sent
    assert verdict in done.stderr and done.stderr.rstrip().endswith("the right answer is $980,000")


def test_an_example_stands_alone(place):
    for arguments, said in (
        (("--example", "loan"), "--example loan: there is none of this name, use bond or debt"),
        (("--example", "bond", "--question", "How much?"), "leave out --document and --question"),
        (("--example", "bond", "--max-tokens", 8100), "longer than the 92 tokens that this model can read"),
        (("--question", "How much?"), "--document is missing: give --document FILE and --question TEXT, or --example"),
        ((), "--document is missing"),
    ):
        done = call("--model", "policy", *arguments)
        assert done.exit_code == 2 and said in " ".join(done.stderr.split()), done.stderr
