"""What the viewer answers: each kind of row, untrusted content, images, and folders that cannot be shown."""

import io
import json
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from viewed_rows import EVIL, problem, sft_row, trace, write_lines, write_run, write_step

from configs.errors import ConfigError
from demo.viewer.pages import Viewer
from demo.viewer.sources import Folder


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> Viewer:
    return Viewer(Folder(write_run(tmp_path_factory.mktemp("run"))))


def ask(viewer: Viewer, path: str, **query: Any) -> Any:
    reply = viewer.reply(path, urlencode(query, doseq=True))
    return json.loads(reply.body) | {"status": reply.status}


def blocks(viewer: Viewer, source: str, n: int) -> list[dict[str, Any]]:
    return list(ask(viewer, "/api/row", source=source, n=n)["blocks"])


def by_kind(shown: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [block for block in shown if block["kind"] == kind]


def marked(block: dict[str, Any], mark: str) -> list[str]:
    return [span[0] for span in block["spans"] if len(span) > 1 and span[1] == mark]


TRACES, SFT, STEPS, LOG = "build/traces.jsonl", "build/sft.jsonl", "grpo/completions", "grpo/log.jsonl"


def test_a_run_is_shown_stage_by_stage(viewer: Viewer) -> None:
    kinds = {one["name"]: one["kind"] for one in ask(viewer, "/api/state")["sources"]}
    assert list(kinds.items())[:4] == [(TRACES, "traces"), (SFT, "sft"), (STEPS, "completions"), (LOG, "curves")]
    assert kinds["problems/train/problems.jsonl"] == "problems" and kinds["build/replies.jsonl"] == "rows"


def test_traces_are_filtered_by_status_family_number_and_text(viewer: Viewer) -> None:
    def numbers(**query: Any) -> list[int]:
        return [row["n"] for row in ask(viewer, "/api/rows", source=TRACES, **query)["rows"]]

    answer = ask(viewer, "/api/rows", source=TRACES, filters=1)
    assert answer["facets"]["status"] == {"kept": 2, "error": 1, "filtered": 1, "no_reflection": 1, "wrong": 1, "": 0}
    assert answer["facets"]["family"] == {"count": 3, "place": 3, "": 0} and answer["ranges"]["tokens"] == [40, 45]
    assert numbers(**{"is.status": ["wrong", "error"]}) == [3, 4] and numbers(**{"is.family": "count"}) == [1, 3, 5]
    assert numbers(**{"min.tokens": "41", "max.tokens": "42"}) == [1, 2]
    assert (
        numbers(text="IT REFUSES") == [4]
        and numbers(text="alert(1)") == [5]
        and numbers(order="-tokens", count=1) == [5]
    )
    assert numbers(first=4) == [4, 5]


def test_a_trace_is_shown_round_by_round_with_what_became_of_it(viewer: Viewer) -> None:
    shown = blocks(viewer, TRACES, 0)
    rounds = by_kind(shown, "round")
    assert [one["verdict"] for one in rounds] == ["incorrect: 1", "correct: 3"]
    assert rounds[0]["parts"] == [["Request", "How many?"], ["Look", "blue: 1"], ["Conclusion", "blue: 1."]]
    (text,) = by_kind(shown, "text")
    assert marked(text, "corrected") == ["1"] and marked(text, "relook") == ["Wait, let me look again."]
    assert "".join(span[0] for span in text["spans"]) == trace(0)["trace"]
    assert by_kind(shown, "images")[0]["count"] == 1
    assert ["gold answer", "3"] in by_kind(shown, "facts")[0]["items"]
    notes = [by_kind(blocks(viewer, TRACES, n), "note")[0]["text"] for n in range(6)]
    assert notes[0].startswith("Kept:") and "near_duplicate" in notes[1] and "plain_share" in notes[2]
    assert "no correct conclusion in 3 rounds" in notes[3] and "refusal: it refuses" in notes[4]
    assert "min_confirm" in notes[5]  # kept, but not in sft.jsonl


def test_the_replies_of_an_episode_are_found_in_the_log(viewer: Viewer) -> None:
    shown = ask(viewer, "/api/replies", source=TRACES, n=4)["blocks"]
    assert [one["title"].split(" (")[0] for one in shown] == [
        "responder, round 0, attempt 0",
        "responder, round 0, attempt 1",
    ]
    assert "no reply" in ask(viewer, "/api/replies", source=TRACES, n=0)["blocks"][0]["text"]
    assert ask(viewer, "/api/replies", source=SFT, n=0)["status"] == 404


def test_a_build_that_goes_on_shows_its_new_traces_and_its_filters(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "traces.jsonl", [trace(0)])
    viewer = Viewer(Folder(tmp_path))
    before = ask(viewer, "/api/rows", source="traces.jsonl", filters=1)
    assert before["facets"]["status"] == {"kept": 1, "": 0} and "in SFT set" not in before["facets"]
    with open(path, "a") as file:
        file.write(json.dumps(trace(1, "wrong")) + "\n" + '{"id"')
    after = ask(viewer, "/api/rows", source="traces.jsonl", filters=1)
    assert after["total"] == 3 and after["changes"] > before["changes"] and after["rows"][2]["badge"] == "fault"
    write_lines(tmp_path / "filtered.jsonl", [{"id": "p0#0", "filter": "length"}])
    assert "filtered" in ask(viewer, "/api/rows", source="traces.jsonl", filters=1)["facets"]["status"]


def test_sft_rows_show_where_the_loss_is(viewer: Viewer) -> None:
    shown = blocks(viewer, SFT, 0)
    prompt, completion = by_kind(shown, "text")
    assert "no loss" in prompt["title"] and prompt["spans"] == [["<image>\nHow many?"]]
    assert marked(completion, "masked") == ["1"]
    text = sft_row(0, "")["completion"]
    assert "".join(marked(completion, "loss")) == text[:14] + text[15:] + " ⏎ end of turn"
    assert [f"{len(text) - 1} of {len(text)} characters, and the end of the turn"] == [
        value for block in by_kind(shown, "facts") for name, value in block["items"] if name == "loss on"
    ]


def test_completions_show_rewards_group_and_mass(viewer: Viewer) -> None:
    answer = ask(viewer, "/api/rows", source=STEPS, filters=1)
    assert answer["total"] == 4 and answer["facets"]["answer"] == {"correct": 2, "incorrect": 2, "": 0}
    assert answer["facets"]["family"] == {"place": 4, "": 0} and answer["ranges"]["advantage"] == [-0.5, 0.5]
    shown = blocks(viewer, STEPS, 2)
    rewards, group = by_kind(shown, "table")
    assert rewards["rows"][:4] == [
        ["accuracy", "1", "1", "+1"], ["format", "0", "0.2", "+0"], ["reward", "", "", "1"], ["advantage", "", "", "0.5"]
    ]  # fmt: skip
    assert group["links"] == [2, 3] and group["current"] == 0
    completion = by_kind(shown, "text")[0]
    assert completion["spans"][0][:3] == ["blue: 3", "heat", 1.0]
    assert by_kind(shown, "images")[0]["count"] == 1


def test_completions_of_earlier_runs_have_fewer_columns(tmp_path: Path) -> None:
    path = write_step(tmp_path / "completions", 1, ["blue: 3. Wait, let me look again."])
    import pandas as pd

    pd.read_parquet(path).drop(columns=["problem", "reward", "sentences", "accuracy"]).to_parquet(path)
    viewer = Viewer(Folder(path.parent))
    shown = blocks(viewer, "completions", 0)
    assert (
        marked(by_kind(shown, "text")[0], "relook") == ["Wait, let me look again."]
        and len(by_kind(shown, "table")) == 1
    )
    assert ask(Viewer(Folder(path)), "/api/rows", source=path.name)["total"] == 1


def test_curves_hold_every_number_of_the_log(viewer: Viewer, tmp_path: Path) -> None:
    answer = ask(viewer, "/api/curves", source=LOG)
    assert answer["curves"] == {"loss": {"steps": [1, 2, 3], "values": [1, 0.5, 1 / 3], "last": 1 / 3}}
    assert (
        answer["rows"] == 3 and answer["finished"] is False and ask(viewer, "/api/curves", source=SFT)["status"] == 404
    )
    write_lines(
        tmp_path / "log.jsonl",
        [{"step": n, "loss": float(n), "eval_loss": 1.0 if n % 100 == 0 else None} for n in range(5_000)],
    )
    (tmp_path / "summary.json").write_text("{}")
    long = ask(Viewer(Folder(tmp_path)), "/api/curves", source="log.jsonl")
    assert len(long["curves"]["loss"]["steps"]) == 400 and long["curves"]["loss"]["last"] == 4999 and long["finished"]
    assert long["curves"]["eval_loss"]["values"] == [1.0] * 50


def test_what_models_write_stays_text(viewer: Viewer) -> None:
    """The answer is JSON, which no browser reads as a page; the page puts it in as text (tests/browser)."""
    reply = viewer.reply("/api/row", urlencode({"source": TRACES, "n": 5}))
    assert reply.kind == "application/json" and EVIL in json.dumps(json.loads(reply.body)["blocks"])
    scripts = "".join((path).read_text() for path in (Path("demo/viewer/static")).glob("*.js"))
    assert not [
        way for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if way in scripts
    ]


def test_images_come_from_the_folder_and_its_problem_sets_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8), "red").save(secret)
    link = run / "build" / "link.png"
    link.symlink_to(secret)
    outside = [
        str(secret),
        "../../secret.png",
        "link.png",
        "https://example.org/x.png",
        "/etc/passwd",
        "nul\0l",
        "x" * 9_000,
    ]
    write_lines(run / "build" / "sft.jsonl", [sft_row(0, one) for one in [*outside, "../problems/train/images/p1.png"]])
    viewer = Viewer(Folder(run))

    def image(number: int, place: int = 0) -> tuple[int, bytes]:
        reply = viewer.reply("/image", urlencode({"source": SFT, "n": number, "i": place}))
        return reply.status, reply.body

    for number in range(len(outside)):
        status, body = image(number)
        assert status == 404 and "error" in json.loads(body), outside[number]
    status, body = image(len(outside))
    assert status == 200 and Image.open(io.BytesIO(body)).size == (40, 30)
    assert image(len(outside), 1)[0] == 404 and image(99)[0] == 404
    # The folder of a set that is named on the command line may be anywhere.
    wider = Viewer(Folder(run, [tmp_path]))
    assert wider.reply("/image", urlencode({"source": SFT, "n": 0, "i": 0})).status == 200


def test_an_image_may_stand_in_the_row(tmp_path: Path) -> None:
    import base64

    data = io.BytesIO()
    Image.new("RGB", (3_000, 2_000), "blue").save(data, "PNG")
    text = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    write_lines(tmp_path / "sft.jsonl", [sft_row(0, text), sft_row(1, "data:image/png;base64,AAAA")])
    viewer = Viewer(Folder(tmp_path))
    reply = viewer.reply("/image", urlencode({"source": "sft.jsonl", "n": 0, "i": 0}))
    width, height = Image.open(io.BytesIO(reply.body)).size
    assert reply.status == 200 and width * height <= 640_000
    assert viewer.reply("/image", urlencode({"source": "sft.jsonl", "n": 1, "i": 0})).status == 404


@pytest.mark.parametrize(
    "path", ["/nothing", "/view.css/../pages.py", "/static/view.js", "/api/row/", "//", "/../../etc/passwd"]
)
def test_there_are_no_other_addresses(viewer: Viewer, path: str) -> None:
    assert viewer.reply(path, "").status == 404


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("source=build/traces.jsonl&n=-1", 400),
        ("source=build/traces.jsonl&n=1e9", 400),
        ("source=build/traces.jsonl&n=٣", 400),
        ("source=build/traces.jsonl&n=99", 200),
        ("source=../run/build/traces.jsonl&n=0", 404),
        ("source=/etc/passwd&n=0", 404),
        ("n=0", 404),
        ("source=build/traces.jsonl&min.tokens=high", 400),
        ("x=" + "y" * 9_000, 414),
        ("&".join(["a=b"] * 300), 400),
    ],
)
def test_a_request_that_the_page_does_not_send_is_refused(viewer: Viewer, query: str, status: int) -> None:
    assert viewer.reply("/api/rows" if "tokens" in query else "/api/row", query).status == status


def test_nothing_to_show_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds nothing to show: looked for traces\.jsonl"):
        Folder(tmp_path)
    with pytest.raises(ConfigError, match="does not exist"):
        Folder(tmp_path / "none")
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 100)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ConfigError, match="nothing to show"):
        Folder(tmp_path)
    with pytest.raises(ConfigError, match="nothing to show"):
        Folder(tmp_path / "model.safetensors")
    write_lines(tmp_path / "rows.jsonl", [{"a": 1}])
    with pytest.raises(ConfigError, match="does not exist"):
        Folder(tmp_path, [tmp_path / "nowhere"])


def test_a_stage_that_begins_later_appears(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("demo.viewer.pages.LOOK_AGAIN", -1.0)
    write_lines(tmp_path / "build" / "traces.jsonl", [trace(0)])
    viewer = Viewer(Folder(tmp_path))
    assert len(ask(viewer, "/api/state")["sources"]) == 1
    write_step(tmp_path / "grpo" / "completions", 1, ["a"])
    assert [one["kind"] for one in ask(viewer, "/api/state")["sources"]] == ["traces", "completions"]


def test_a_build_inside_a_run_finds_the_problems_of_the_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    viewer = Viewer(Folder(run / "build"))
    assert ask(viewer, "/api/rows", source="traces.jsonl", filters=1)["facets"]["family"] == {
        "count": 3,
        "place": 3,
        "": 0,
    }
    assert viewer.reply("/image", urlencode({"source": "traces.jsonl", "n": 0, "i": 0})).status == 200
    alone = Viewer(Folder(run / "build" / "sft.jsonl", [run / "problems" / "train"]))
    assert ask(alone, "/api/rows", source="sft.jsonl", filters=1)["facets"]["family"] == {"place": 1, "": 0}


def test_rows_of_any_kind_are_shown(tmp_path: Path) -> None:
    rows = [{"kind": "ab"[n % 2], "score": n / 2, "text": f"text {n} " + "x" * 200, "ok": n > 3} for n in range(8)]
    write_lines(tmp_path / "any.jsonl", rows)
    import pandas as pd

    pd.DataFrame(rows).to_parquet(tmp_path / "any.parquet")
    viewer = Viewer(Folder(tmp_path))
    for name in ("any.jsonl", tmp_path.name):  # the parquet files of a folder are one table
        answer = ask(viewer, "/api/rows", source=name, filters=1, text="text 3")
        assert answer["matched"] == 1 and answer["facets"]["kind"] == {"b": 1, "": 0, "a": 0}, name
        assert answer["ranges"]["score"] == [0, 3.5]
        shown = blocks(viewer, name, 3)
        assert by_kind(shown, "text")[0]["title"] == "text" and by_kind(shown, "facts")[0]["items"][0] == ["kind", "b"]


LEAF = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUE = st.recursive(
    LEAF,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
KEYS = {
    "traces.jsonl": (
        "id",
        "problem_id",
        "status",
        "error",
        "why",
        "rounds",
        "trace",
        "answer",
        "looks",
        "corrected",
        "models",
        "usage",
    ),
    "sft.jsonl": ("prompt", "completion", "images", "masked", "mode", "problem_id", "relooks"),
    "problems.jsonl": ("id", "question", "answer", "images", "domain", "source", "meta", "choices"),
    "log.jsonl": ("step", "loss", "reward"),
}
FIRST = {
    "traces.jsonl": trace(0),
    "sft.jsonl": sft_row(0, "x.png"),
    "problems.jsonl": problem(0),
    "log.jsonl": {"step": 1, "loss": 2.0},
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_rows_of_any_shape_never_fail(tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
    name = data.draw(st.sampled_from(sorted(KEYS)))
    row = data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(KEYS[name], VALUE)))
    folder = tmp_path_factory.mktemp("rows")
    write_lines(folder / name, [FIRST[name], row])
    viewer = Viewer(Folder(folder))
    assert ask(viewer, "/api/rows", source=name, filters=1)["total"] == 2
    assert ask(viewer, "/api/row", source=name, n=1)["blocks"]
    if name == "log.jsonl":
        assert "loss" in ask(viewer, "/api/curves", source=name)["curves"]
    assert viewer.reply("/image", urlencode({"source": name, "n": 1, "i": 0})).status == 404
