"""Files and data sets as people have them become problem sets; every row is used, or named and counted."""

import base64
import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from configs.errors import UserError
from data_construction.imported_rows import Columns
from data_construction.imports import ImportOptions, import_problems
from reflection_v.cli import app
from vlm.problem import Problem, read_problems


def _png(colour: str = "red") -> bytes:
    data = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(data, "PNG")
    return data.getvalue()


URI = "data:image/png;base64," + base64.b64encode(_png()).decode()
Q, A = {"role": "user", "content": "How many?"}, {"role": "assistant", "content": "3"}


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "in" / "img").mkdir(parents=True)
    for name, colour in (("a", "red"), ("b", "blue")):
        (tmp_path / "in" / "img" / f"{name}.png").write_bytes(_png(colour))
    return tmp_path / "in"


def _imported(file: Path, **options: Any) -> tuple[list[Problem], list[tuple[str, str]]]:
    written, account = import_problems(str(file), file.parent.parent / "out", ImportOptions(**options))
    problems = read_problems(written.parent)
    assert account.used == len(problems) and account.rows == account.used + len(account.left_out)
    assert all(Path(image).is_file() for problem in problems for image in problem.images)
    return problems, account.left_out


def _talk(*turns: str, **rest: Any) -> dict[str, Any]:
    """A row of LLaVA: human and gpt in turn."""
    return {"conversations": [{"from": ("human", "gpt")[n % 2], "value": text} for n, text in enumerate(turns)], **rest}


def _parts(*parts: Any, answer: Any = "3", **rest: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}, {"role": "assistant", "content": answer}], **rest}


LLAVA = _talk("<image>\nWhat is it?", "A cat", id="7", image="img/a.png")
SHOWN = {"type": "image", "image": "img/a.png"}
ROWS: list[tuple[str, dict[str, Any], str, str, str, int]] = [
    # format, row, question, answer, domain, images
    ("llava", LLAVA, "What is it?", "A cat", "text", 1),
    ("llava", _talk("Is it red?\n<image>", "Yes.", image="img/a.png"), "Is it red?\n<image 1>", "Yes", "yes_no", 1),
    ("llava", _talk("<image> and <image>: same?", "no", image=["img/a.png", "img/b.png"]), "and <image 2>: same?", "no", "yes_no", 2),
    ("llava", _talk("<image>\nWhich?\nA. cat\nB. dog\nA letter.", "B", image="img/a.png"), "Which?\nA letter.", "B", "choice", 1),
    ("llava", _talk("Hi", "Hello", "How many cats?", "2"), "User: Hi\nAssistant: Hello\nUser: How many cats?", "2", "count", 0),
    ("llava", _talk("<img>img/a.png</img> Width?", "4 cm"), "Width?", "4 cm", "number", 1),
    ("llava", _talk("Sum?", "<think>" + "long " * 99 + "</think> so \\boxed{12}"), "Sum?", "12", "number", 0),
    ("llava", _talk("Sum?", "It is clear.\n" * 30 + "<answer>12</answer>"), "Sum?", "12", "number", 0),
    ("sharegpt", _talk("How many?", "3"), "How many?", "3", "count", 0),
    ("sharegpt", {"conversations": [Q, A]}, "How many?", "3", "count", 0),
    ("sharegpt", {"texts": [{"user": "How many?", "assistant": "Answer: 3"}], "images": ["img/a.png"]}, "How many?", "3", "count", 1),
    ("messages", {"messages": [{"role": "system", "content": "Be kind."}, Q, A]}, "How many?", "3", "count", 0),
    ("messages", _parts(SHOWN, {"type": "text", "text": "How many?"}), "How many?", "3", "count", 1),
    ("messages", _parts({"type": "image"}, {"text": "How many?"}, images=["img/b.png"]), "How many?", "3", "count", 1),
    ("messages", _parts({"image": "img/a.png"}, {"text": "How many?"}, answer=[{"text": "3"}]), "How many?", "3", "count", 1),
    ("messages", _parts({"type": "image_url", "image_url": {"url": URI}}, "How many?"), "How many?", "3", "count", 1),
    ("messages", _parts({"type": "input_image", "image_url": URI}, {"type": "input_text", "text": "What?"}), "What?", "3", "number", 1),
    ("messages", {"prompt": [Q], "completion": [A]}, "How many?", "3", "count", 0),
    ("json", {"question": "How many?", "answer": 3, "image": "img/a.png"}, "How many?", "3", "count", 1),
    ("json", {"query": "Order?", "label": ["1", "2"], "images": [URI]}, "Order?", '["1", "2"]', "simulation", 1),
    ("json", {"question": "Which?", "options": {"A": "cat", "B": "dog"}, "answer": "dog"}, "Which?", "dog", "choice", 0),
    ("json", {"question": "q", "answer": True}, "q", "true", "yes_no", 0),
    ("json", {"question": "q", "answer": "Long.\n#### \\boxed{x^2}"}, "q", "x^2", "expression", 0),
]  # fmt: skip


@pytest.mark.parametrize("lines", [True, False])
@pytest.mark.parametrize("kind, row, question, answer, domain, images", ROWS)
def test_a_row_becomes_a_problem(
    kind: str, row: dict[str, Any], question: str, answer: str, domain: str, images: int, lines: bool, here: Path
) -> None:
    file = here / "rows.json"
    file.write_text(json.dumps(row) + "\n" if lines else json.dumps([row], indent=1))
    (problem,), left_out = _imported(file, kind=kind)
    found = (problem.question, problem.answer, problem.domain, len(problem.images))
    assert found == (question, answer, domain, images) and left_out == []


BAD: list[tuple[str, str | dict[str, Any], str]] = [
    ("json", '{"question": ', "not valid JSON"),
    ("json", "[1, 2]", "list, not an object"),
    ("json", "[" * 100_000, "not valid JSON"),
    ("json", {"question": "q"}, "it has no answer"),
    ("json", {"question": "q", "answer": float("nan")}, "it has no answer"),
    ("json", {"answer": "q"}, "it has no question"),
    ("json", {"question": {"a": 1}, "answer": "q"}, "its question is no text but dict"),
    ("json", {"question": "q", "answer": [{"a": 1}]}, "its answer is a list of something other"),
    ("json", {"question": "q\ud83d", "answer": "1"}, "question: "),
    ("json", {"question": "q", "answer": "a\ud83d"}, "broken_text"),
    ("json", {"question": "q", "answer": "5", "domain": "yes_no"}, "unparsable_answer"),
    ("json", {"question": "q", "answer": "5", "choices": ["1", "2"]}, "answer_not_a_choice"),
    ("json", {"question": "q", "answer": "5", "choices": "1, 2"}, "its options cannot be read"),
    ("json", {"question": "q", "answer": "1", "image": "img/none.png"}, "no file of the data set"),
    ("json", {"question": "q", "answer": "1", "image": "data:image/png;base64," + "A" * 60}, "cannot be read as an image"),
    ("json", {"question": "q", "answer": "1", "image": {"a": 1}}, "it has no image"),
    ("json", {"question": "q", "answer": "1", "image": 7}, "stored as int"),
    ("json", {"question": "q", "answer": "1", "images": ["img/a.png"] * 65}, "more than 64 images"),
    ("json", {"question": "q", "answer": "1", "image": "https://localhost/a.png"}, "give --urls"),
    ("llava", {"question": "q", "answer": "1"}, "it has no conversation"),
    ("llava", _talk("<image>What?", "A cat"), "names more images than it has"),
    ("llava", _talk("What?"), "no question that an assistant answers"),
    ("llava", _talk("What?", ""), "last turn is empty"),
    ("llava", _talk("What?", "word " * 60), "longer than 200 characters"),
    ("llava", _talk("What?", "A cat", video="a.mp4"), "about a video"),
    ("llava", _talk(*["a"] * 300), "more than 200 turns"),
    ("messages", {"messages": [Q, {"role": "tool", "content": "3"}]}, "of role 'tool'"),
    ("messages", {"messages": ["How many?"]}, "a turn of it is str"),
    ("messages", _parts({"type": "audio", "audio": "a.wav"}), "of type 'audio'"),
]  # fmt: skip


@pytest.mark.parametrize("kind, row, why", BAD, ids=range(len(BAD)))
def test_a_row_that_is_none_is_named_with_its_line(kind: str, row: Any, why: str, here: Path) -> None:
    file = here / "rows.jsonl"
    good = LLAVA if kind == "llava" else {"messages": [Q, A]} if kind == "messages" else ROWS[18][1]
    file.write_text(f"{json.dumps(good)}\n\n{row if isinstance(row, str) else json.dumps(row)}\n{json.dumps(good)}")
    problems, ((place, found),) = _imported(file, kind=kind)
    assert len(problems) == 2 and place == "line 3" and why in found


TABLES: list[tuple[str, Columns, str, int]] = [
    # text of the table, columns, answer, images
    ("question,answer,image\nHow many?,3,img/a.png\n", Columns(), "3", 1),
    ("\ufeffFrage;Antwort;Bild\nWie viele?;3;img/a.png\n", Columns("Frage", "Antwort", ["Bild"]), "3", 1),
    ("Question\tAnswer\timage_1\timage_2\nHow many?\t3\timg/a.png\timg/b.png\n", Columns(), "3", 2),
    ('question,answer,images\n"How\nmany, then?",3,"[""img/a.png"", ""img/b.png""]"\n', Columns(), "3", 2),
    ("question,answer,A,B\nWhich?,B,cat,dog\n", Columns(), "B", 0),
    ("question,answer,choices\nWhich?,dog,cat|dog\n", Columns(), "dog", 0),
    (f"question,answer,image\nHow many?,3,{URI.replace('data:image/png;base64,', '')}\n", Columns(), "3", 1),
]  # fmt: skip


@pytest.mark.parametrize("text, columns, answer, images", TABLES)
def test_tables_of_text(text: str, columns: Columns, answer: str, images: int, here: Path) -> None:
    (here / "t.csv").write_text(text, encoding="utf-8")
    (problem,), left_out = _imported(here / "t.csv", columns=columns)
    assert (problem.answer, len(problem.images), left_out) == (answer, images, [])


@pytest.mark.parametrize(
    "image",
    [
        "img\\a.png",
        "./img/../img/a.png",
        "file://HERE/img/a.png",
        "HERE/img/a.png",
        URI,
        URI.replace("image/png", "image"),
        URI.replace("image/png", "image/png;charset=utf-8"),
        URI.replace("image/png", ""),
        {"url": URI},
    ],
)
def test_images_are_found_as_people_write_them(image: Any, here: Path) -> None:
    image = image.replace("HERE", str(here)) if isinstance(image, str) else image
    row = _parts({"type": "image", "image": image}, {"type": "text", "text": "How many?"})
    (here / "t.jsonl").write_text(json.dumps(row))
    ((image_path,),) = [problem.images for problem in _imported(here / "t.jsonl")[0]]
    assert Path(image_path).read_bytes() == _png()


def test_bad_rows_of_a_table_are_counted(here: Path) -> None:
    rows = ["question,answer", "How many?,3", "a,b,c", "alone", "na\xefve?,caf\xe9", "How many?,4"]
    (here / "t.csv").write_bytes("\n".join(rows).encode("latin-1"))
    problems, left_out = _imported(here / "t.csv")
    assert [problem.answer for problem in problems] == ["3", "4"]
    assert [place for place, _ in left_out] == ["line 3", "line 4", "line 5"]
    assert "UTF-8" in left_out[2][1] and "more cells" in left_out[0][1] and "no answer" in left_out[1][1]


@pytest.mark.parametrize(
    "image", [_png(), {"bytes": _png(), "path": None}, {"bytes": None, "path": "img/a.png"}, "img/a.png", [_png(), _png("blue")]]
)  # fmt: skip
def test_parquet(image: Any, here: Path) -> None:
    table = pa.Table.from_pylist([{"question": "How many?", "answer": 3.0, "image": image, "id": 5}])
    pa.parquet.write_table(table, here / "t.parquet")
    (problem,), _ = _imported(here / "t.parquet")
    assert len(problem.images) == (2 if isinstance(image, list) else 1) and problem.id == "5"


def test_parquet_of_conversations(here: Path) -> None:
    rows = [_parts({"type": "image"}, {"type": "text", "text": "How many?"}, images=[{"bytes": _png()}])]
    rows[0]["messages"][1]["content"] = [{"type": "text", "text": "3"}]
    pa.parquet.write_table(pa.Table.from_pylist(rows), here / "t.parquet")
    (problem,), _ = _imported(here / "t.parquet", kind="parquet")
    assert (problem.question, problem.answer, len(problem.images)) == ("How many?", "3", 1)


def test_a_problem_in_an_array_keeps_its_fields(here: Path) -> None:
    other = {"image": "img/b.png", "answer": "2,5"}
    row = {"id": "p", "source": "shop", "domain": "number", "question": "q", "answer": "1,5", "decimal": ","}
    (here / "t.json").write_text(json.dumps([row | {"meta": {"family": "f", "counterfactual": other}}]))
    (problem,), _ = _imported(here / "t.json")
    assert (problem.id, problem.source, problem.domain, problem.decimal) == ("p", "shop", "number", ",")
    assert problem.family == "f" and Path(problem.meta["counterfactual"]["image"]).read_bytes() == _png("blue")


def test_equal_images_are_kept_once_and_equal_ids_are_told_apart(here: Path) -> None:
    (here / "t.jsonl").write_text(json.dumps(LLAVA) + "\n" + json.dumps(LLAVA) + "\n")
    problems, _ = _imported(here / "t.jsonl")
    assert [problem.id for problem in problems] == ["7", "7-2"] and problems[0].images == problems[1].images
    assert Path(problems[0].images[0]).read_bytes() == _png()


def test_images_may_start_from_another_folder(here: Path) -> None:
    (here / "t.jsonl").write_text(json.dumps(LLAVA | {"image": "a.png"}) + "\n")
    with pytest.raises(UserError, match="No row"):
        _imported(here / "t.jsonl", images=here / "none")
    assert _imported(here / "t.jsonl", images=here / "img")[0]


WHOLE = [
    ("t.jsonl", '{"question": "q", "answer": "1"}\n'.encode("utf-16"), "is UTF-16 text, not UTF-8: save it"),
    ("t.csv", "question,answer\nq,1\n".encode("utf-16"), "is UTF-16 text"),
    ("t.json", '[{"a": 1}]'.encode("utf-16-le"), "is UTF-16 text"),
    ("t.json", b"[{", "is not valid JSON"),
    ("t.json", b"", "No row"),
    ("t.csv", b"", "is empty"),
    ("t.parquet", b"PAR1 nothing", "cannot be read as Parquet"),
    ("t.jsonl", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    ("t.json", b"\n\n{", "not valid JSON"),
    ("t.json.gz", b"\x1f\x8b\x08", "is a compressed archive or a spreadsheet"),
    ("t.xlsx", b"PK\x03\x04", "save the spreadsheet as CSV"),
    ("t.csv", b"frage,antwort\nq,1\n", "(it has no question). Its columns are frage, antwort."),
    ("t.jsonl", b"{\x01\0\0\0", "no text file"),
]  # fmt: skip


@pytest.mark.parametrize("name, content, why", WHOLE)
def test_a_file_that_cannot_be_read_is_a_sentence(name: str, content: bytes, why: str, here: Path) -> None:
    (here / name).write_bytes(content)
    run = CliRunner().invoke(app, ["problems", str(here / name), "--out", str(here / "out")])
    assert run.exit_code == 1 and why in " ".join(run.output.split()), run.output


def test_several_mistakes_are_reported_at_once(here: Path) -> None:
    rows = [json.dumps({"question": "q"})] * 12 + ["{"] * 2
    (here / "t.jsonl").write_text("\n".join(rows))
    command = ["problems", str(here / "t.jsonl"), "--from", "json", "--out", str(here / "out")]
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 1 and not (here / "out" / "problems.jsonl").exists()
    lines = run.output.splitlines()
    assert lines[:2] == ["line 1: it has no answer", "line 2: it has no answer"]
    assert "and 4 more" in lines and "12 rows dropped: it has no answer" in lines
    (here / "t.jsonl").write_text("\n".join([*rows, '{"question": "q", "answer": "1"}']))
    run = CliRunner().invoke(app, command)
    assert run.exit_code == 0 and "1 problems in" in run.output and "15 rows read, 14 dropped" in run.output
    assert len(json.loads((here / "out" / "left_out.json").read_text())) == 14


@pytest.mark.parametrize(
    "name, content, kind",
    [
        ("a.json", json.dumps([ROWS[18][1]]), "json"),
        ("a.jsonl", json.dumps([ROWS[18][1]], indent=1), "json"),
        ("l.jsonl", json.dumps(LLAVA), "llava"),
        ("l.json", json.dumps([LLAVA]), "llava"),
        ("s.jsonl", json.dumps(_talk("q", "a")), "sharegpt"),
        ("m.jsonl", json.dumps({"messages": [Q, A]}), "messages"),
        ("t.csv", "question,answer\n", "csv"),
        ("t.parquet", "PAR1", "parquet"),
    ],
)
@pytest.mark.parametrize("command", [["eval", "tiny", "--problems"], ["ask", "--batch"]])
def test_another_format_where_problems_are_expected_is_named(
    command: list[str], name: str, content: str, kind: str, here: Path
) -> None:
    (here / name).write_text(content)
    run = CliRunner().invoke(app, [*command, str(here / name), "--out", str(here / "out")])
    assert run.exit_code == 1 and f"--from {kind} --out SET" in " ".join(run.output.split())


def test_a_data_set_of_a_local_clone(here: Path) -> None:
    (here / "data").mkdir()
    for split, answer in (("train", "1"), ("test", "2")):
        rows = [{"q": "How many?", "a": answer, "img": {"bytes": _png(), "path": None}}]
        pa.parquet.write_table(pa.Table.from_pylist(rows), here / "data" / f"{split}-00000-of-00001.parquet")
    command = ["problems", f"hf:{here}", "--question", "q", "--answer", "a", "--image", "img"]
    for split, answer in (([], "1"), (["--split", "test"], "2")):
        out = here.parent / f"out{answer}"
        run = CliRunner().invoke(app, [*command, *split, "--out", str(out)])
        assert run.exit_code == 0, run.output
        (problem,) = read_problems(out)
        assert (problem.answer, len(problem.images)) == (answer, 1)
    run = CliRunner().invoke(app, [*command, "--split", "none", "--out", str(here / "out3")])
    assert run.exit_code == 1 and "only test, train" in " ".join(run.output.split())


@pytest.fixture
def served() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/a.png" else 404)
            self.end_headers()
            self.wfile.write(_png() if self.path == "/a.png" else b"<html>")

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_images_are_downloaded_where_urls_are_allowed(served: str, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    rows = [{"question": "q", "answer": "1", "image": f"{served}/{name}"} for name in ("a.png", "none.png")]
    (here / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (problem,), ((place, why),) = _imported(here / "t.jsonl", urls=True)
    assert Path(problem.images[0]).read_bytes() == _png() and place == "line 2" and "Not Found" in why


WORDS = [URI, "img/a.png", "<image>", "A. x\nB. y"]
PARTS = ["role", "from", "content", "value", "type", "text", "image", "url", "bytes"]
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(WORDS)
CELLS = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(PARTS), inner, max_size=4),
    max_leaves=8,
)
TURNS = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "human", "x"]), "content": CELLS}), max_size=4
)
KEYS = ["question", "answer", "image", "images", "choices", "id", "domain", "meta", "source", "decimal", "messages"]
FUZZED = st.dictionaries(st.sampled_from(KEYS), CELLS, max_size=6) | st.fixed_dictionaries(
    {"conversations": TURNS, "image": CELLS}
)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(FUZZED | CELLS, min_size=1, max_size=4),
    kind=st.sampled_from([None, "llava", "messages", "json", "csv"]),
    torn=st.integers(0, 3),
)
def test_whatever_a_file_holds_every_row_is_used_or_counted(
    rows: list[Any], kind: str | None, torn: int, here: Path
) -> None:
    file = here / "t.jsonl"
    good = {"question": "q", "answer": "1"} if kind not in ("llava", "messages") else {"messages": [Q, A]}
    if kind == "csv":
        cells = [row for row in rows if isinstance(row, dict)]
        with file.open("w", newline="", errors="surrogatepass") as text:
            table = csv.DictWriter(text, ["question", "answer", *KEYS[2:-1]], extrasaction="ignore")
            table.writeheader()
            table.writerows([good, *cells])
        expected = 1 + len(cells)
    else:
        lines = [json.dumps(row) for row in [good, *rows]]
        lines[-1] = lines[-1][: len(lines[-1]) - torn] or "{"
        file.write_text("\n".join(lines))
        expected = len(lines)
    problems, left_out = _imported(file, kind=kind)
    assert len(problems) + len(left_out) == expected


@pytest.mark.parametrize(
    "arguments, code, why",
    [
        (["problems", "{}/none.json"], 1, "none.json does not exist"),
        (["problems", "{}"], 1, "is a folder: give a file of it, or hf:"),
        (["problems", "hf:{}/none"], 1, "There is no data set at"),
        (["problems", "hf:../none/such"], 1, "There is no data set at"),
        (["problems", "hf:{}/img"], 1, "holds no data files"),
        (["problems", "scenes"], 2, "--n is missing"),
        (["problems", "{}/a.json", "--domain", "art"], 2, "Unknown domain 'art'"),
        (["problems", "{}/a.json", "--images", "{}/none"], 2, "check --images"),
        (["problems", "{}/a.json", "--question", "q"], 1, "it has no column 'q'"),
        (["problems", "{}/a.json", "--from", "xml"], 2, "--from"),
    ],
)
def test_mistakes_on_the_command_line(arguments: list[str], code: int, why: str, here: Path) -> None:
    (here / "a.json").write_text('[{"question": "q", "answer": "1"}]')
    given = [argument.format(here) for argument in arguments]
    run = CliRunner().invoke(app, [*given, "--out", str(here / "out")])
    assert run.exit_code == code and why in " ".join(run.output.split()), run.output


def test_the_sets_of_others_stay_and_own_ones_are_replaced(here: Path) -> None:
    (here / "a.json").write_text('[{"question": "q", "answer": "1"}]')
    for _ in range(2):
        assert len(_imported(here / "a.json")[0]) == 1
    (here.parent / "out" / "import.json").unlink()
    with pytest.raises(UserError, match="which no import wrote"):
        _imported(here / "a.json")


@pytest.mark.parametrize(
    "answer, domain", [("2,5", "number"), ("2,5 kg", "number"), ("1.234", "number"), ("ja", "text")]
)
@pytest.mark.parametrize("talk", [True, False])
def test_a_decimal_comma(answer: str, domain: str, talk: bool, here: Path) -> None:
    row = _talk("Wie viel?", answer) if talk else {"question": "Wie viel?", "answer": answer}
    (here / "t.jsonl").write_text(json.dumps(row))
    (problem,), _ = _imported(here / "t.jsonl", columns=Columns(decimal=","))
    assert (problem.answer, problem.domain, problem.decimal) == (answer, domain, ",")


@pytest.mark.parametrize(
    "header",
    [
        "configs: !!int ''",
        "configs: &a [*a]",
        "configs: " + "[" * 1500,
        "configs: 2026-99-99",
        "configs: [{data_files: '['}]",
    ],
)
def test_the_header_of_a_clone_that_cannot_be_read_declares_nothing(header: str, here: Path) -> None:
    (here / "README.md").write_text(f"---\n{header}\n---\n")
    (here / "train.jsonl").write_text('{"question": "q", "answer": "1"}\n')
    written, account = import_problems(f"hf:{here}", here.parent / "out", ImportOptions())
    assert account.used == 1 and written.exists()
