"""Filters, difficulty, statistics, export: what is learned from, and what is told about it."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from building import scripted_roles, settings, write_set

from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl
from data_construction.build import run_build
from data_construction.derive import export
from data_construction.difficulty import DifficultyConfig, is_in_ranges
from data_construction.quality import (
    QualityConfig,
    filter_traces,
    foreign_share,
    near_duplicates,
    surplus,
    trace_fault,
    unseen_facts,
)
from data_construction.records import Round, Trace
from data_construction.stats import write_stats
from vlm.backends import BackendError, Request, ScriptedBackend
from vlm.problem import Problem

GOOD = "row 1: red none. Wait, let me look again. row 1: red red, so 2."


def make(text: str = GOOD, number: int = 0, rounds: list[Round] | None = None, **changes: object) -> Trace:
    said = {"conclusion": "row 1: red red, red 2.", "answer": "2", "verdict": True}
    rounds = rounds or [
        Round(request="Which?", reply="row 1: red none", **{**said, "verdict": False}),
        Round(request="Look again.", reply="row 1: red red", **said),
    ]
    return Trace(id=f"t{number}", problem_id=f"p{number}", rounds=rounds, trace=text, status="kept", **changes)


def problem(number: int = 0, domain: str = "count", question: str = "How many are red?") -> Problem:
    return Problem(id=f"p{number}", source="s", domain=domain, question=question, answer="2")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (GOOD, ""),
        (GOOD + " The answer is 2.", ""),
        ("Two.", "length"),
        ("many words " * 30 + "row " * 2000, "length"),
        ("I look again. " * 60, "repeating"),
        ("第一行是红色的。让我再看一次。第一行有两个红色。 row 1: red red.", "language"),
        (GOOD + " So the answer is 3.", "answer"),
        (GOOD.replace("red red", "red blue"), "facts"),
        (GOOD + " There are 17 of them.", "facts"),
    ],
)
def test_each_filter_by_name(text: str, name: str) -> None:
    assert trace_fault(make(text), problem(), QualityConfig()) == name
    assert trace_fault(make(text).model_copy(update={"status": "wrong"}), problem(), QualityConfig()) == ""


def test_a_language_is_foreign_only_where_the_question_does_not_use_it() -> None:
    assert foreign_share("第一行有两个红色", "有几个红色？") == 0.0
    assert foreign_share("row α = 2", "How many?") == pytest.approx(1 / 4)
    assert foreign_share("123", "How many?") == 0.0


def test_what_the_question_or_a_request_says_is_no_unseen_fact() -> None:
    assert unseen_facts(make("A1: blue. " + GOOD), problem()) == ["a1: blue"]
    assert unseen_facts(make("A1: blue. " + GOOD), problem(question="Note: A1: blue. How many?")) == []


def test_what_a_round_concludes_from_seen_facts_is_no_unseen_fact() -> None:
    text = GOOD.replace("so 2.", "red: 2.")
    assert unseen_facts(make(text), problem()) == ["red: 2"]  # no round concluded so
    rounds = [make().rounds[0], make().rounds[1].model_copy(update={"conclusion": "row 1: red red; red: 2."})]
    assert unseen_facts(make(text, rounds=rounds), problem()) == []
    alone = [rounds[0], rounds[1].model_copy(update={"conclusion": "red: 2."})]
    assert unseen_facts(make(text, rounds=alone), problem()) == ["red: 2"]  # from nothing that was seen
    other = [rounds[0], rounds[1].model_copy(update={"answer": "3"})]
    assert unseen_facts(make(text, rounds=other), problem()) == ["red: 2"]  # not what the round answered


def test_near_duplicates_count_once_and_different_pictures_of_words_stay() -> None:
    words = " ".join("w" + chr(97 + n // 26) + chr(97 + n % 26) for n in range(60))
    config = QualityConfig(near_duplicate=0.8)
    traces = [make(GOOD + " " + words), make(GOOD + " " + words + " end", 1), make(GOOD, 2)]
    problems = {f"p{n}": problem(n) for n in range(3)}
    assert filter_traces(traces, problems, config, seed=0) == {traces[1].id: "near_duplicate"}
    assert filter_traces(traces, problems, QualityConfig(near_duplicate=1.0), seed=0) == {}


@pytest.mark.parametrize("similarity", [0.3, 0.6, 0.9])
def test_near_duplicates_are_those_that_an_index_of_sketches_finds(similarity: float) -> None:
    """Against datasketch's own index, which holds the sketch of every trace."""
    from datasketch import MinHash, MinHashLSH

    rng = random.Random(1)
    texts = [" ".join(rng.choice("ab") for _ in range(rng.randrange(3, 40))) for _ in range(200)]
    texts = [text if rng.random() < 0.7 else rng.choice(texts) + " c" * rng.randrange(3) for text in texts]
    traces = [make(text, number) for number, text in enumerate(texts)]
    problems = {trace.problem_id: problem(number) for number, trace in enumerate(traces)}
    index, sketches, repeated = MinHashLSH(threshold=similarity, num_perm=128), dict[str, MinHash](), []
    for trace in traces:
        words = f"{problems[trace.problem_id].question} {trace.trace}".lower().split()
        sketch = MinHash(num_perm=128)
        sketch.update_batch({" ".join(words[at : at + 3]).encode() for at in range(max(1, len(words) - 2))})
        if any(sketch.jaccard(sketches[one]) >= similarity for one in index.query(sketch)):
            repeated.append(trace.id)
        else:
            index.insert(trace.id, sketch)
            sketches[trace.id] = sketch
    assert near_duplicates(traces, problems, similarity) == repeated and 0 < len(repeated) < 200


def test_no_domain_has_more_than_its_share() -> None:
    domains = ["count"] * 70 + ["text"] * 20 + ["choice"] * 10
    problems = {f"p{n}": problem(n, domain) for n, domain in enumerate(domains)}
    traces = [make(number=n) for n in range(100)]
    dropped = set(surplus(traces, problems, 0.5, seed=0))
    left = Counter(problems[t.problem_id].domain for t in traces if t.id not in dropped)
    assert left == {"count": 30, "text": 20, "choice": 10}
    assert surplus(traces, problems, 0.5, seed=0) == surplus(traces, problems, 0.5, seed=0)
    dropped = set(surplus(traces, problems, 0.2, seed=0))  # three domains cannot all stay below a fifth
    assert Counter(problems[t.problem_id].domain for t in traces if t.id not in dropped) == dict.fromkeys(left, 10)
    assert surplus(traces[:70], problems, 0.5, seed=0) == []


def test_filters_shape_the_cold_start_set_and_can_be_changed_without_a_call(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 9)
    counts = run_build(settings(tmp_path, quality={"near_duplicate": 0.5}), roles=scripted_roles())
    assert (counts["kept"], counts["filters"]) == (1, {"near_duplicate": 2})
    roles = scripted_roles()
    again = run_build(settings(tmp_path, quality={"near_duplicate": 1.0}), roles=roles)
    assert (again["kept"], again["filtered"]) == (3, 0) and not roles.reasoner.requests  # type: ignore[attr-defined]


def test_pass_rates_of_two_models_choose_the_problems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", 9)  # answers 1, 2, 9 in turn
    asked = Counter[str]()

    def model(name: str, **_: object) -> ScriptedBackend:
        def say(request: Request) -> str:
            asked[name] += 1
            question = request.messages[-1]["content"][-1]["text"]
            if "kind 8" in question and name == "strong":
                raise BackendError("busy")
            return "\\boxed{1}" if name == "weak" else f"\\boxed{{{1 + asked[name] % 2}}}"

        return ScriptedBackend(say, name)

    monkeypatch.setattr("data_construction.build.make_backend", model)
    difficulty = {
        "weak": "weak",
        "strong": "strong",
        "samples": 4,
        "weak_range": [0.0, 0.5],
        "strong_range": [0.1, 1.0],
    }
    config = settings(tmp_path, difficulty=difficulty)
    counts = run_build(config, roles=scripted_roles())
    rates = {row["problem_id"]: row for row in read_jsonl(tmp_path / "out/difficulty.jsonl")}
    assert len(rates) == 8 and "p0008" not in rates  # no reply: measured by the next run
    assert all(row["weak"] == (1.0 if int(key[1:]) % 3 == 0 else 0.0) for key, row in rates.items())
    played = {row["problem_id"] for row in read_jsonl(tmp_path / "out/traces.jsonl")}
    assert played == {key for key, row in rates.items() if row["weak"] <= 0.5 and row["strong"] >= 0.1}
    assert counts["difficulty"] == {"measured": 8, "in_range": len(played)}
    before = asked.total()
    run_build(config, roles=scripted_roles())
    assert asked.total() - before <= 4  # only what had failed
    assert not is_in_ranges(None, DifficultyConfig.model_validate(difficulty))


def test_a_difficulty_server_that_is_down_ends_the_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", 9)

    def down(name: str, **_: object) -> ScriptedBackend:
        def say(request: Request) -> str:
            raise BackendError("is the server running?")

        return ScriptedBackend(say, name)

    monkeypatch.setattr("data_construction.build.make_backend", down)
    difficulty = {"weak": "weak", "strong": "strong", "samples": 1}
    for stop_after, times in ((4, 4), (50, 9)):
        with pytest.raises(UserError, match=f"weak model gave no reply {times} times in a row.*is the server running"):
            run_build(
                settings(tmp_path, difficulty=difficulty, stop_after=stop_after, concurrency=1), roles=scripted_roles()
            )
    assert not (tmp_path / "out/sft.jsonl").exists()
    servers = {"weak": "openai:m@http://a:1/v1", "strong": "openai:m@http://b:1/v1", "api_key_env": "KEY"}
    with pytest.raises(ConfigError, match="would go to several servers"):
        run_build(
            settings(tmp_path / "other", problems=str(tmp_path / "set"), difficulty=servers), roles=scripted_roles()
        )


def test_the_config_of_the_guide_is_one() -> None:
    from configs import bundled_config
    from configs.overrides import read_config
    from configs.schema import parse_config
    from data_construction.build import BuildConfig

    file = bundled_config().parents[1] / "build" / "qwen2_5_vl_72b_qwen3_32b.yaml"
    config = parse_config(BuildConfig, read_config(file), file)
    assert config.roles.of("summarizer").extra_body["chat_template_kwargs"] == {"enable_thinking": True}
    assert config.roles.of("rewriter").extra_body["chat_template_kwargs"] == {"enable_thinking": False}
    assert config.roles.of("rewriter").top_p == config.roles.reasoner.top_p


def test_statistics_are_counted_and_drawn(tmp_path: Path) -> None:
    write_set(tmp_path / "set", 9)
    run_build(settings(tmp_path, quality={"near_duplicate": 1.0}), roles=scripted_roles())
    stats = write_stats(tmp_path / "out")
    assert stats["status"] == {"kept": 3, "no_reflection": 3, "wrong": 3} and stats["looks_of_kept"] == {"1": 3}
    assert stats["tokens_by_role"]["responder"]["calls"] == 15
    assert json.loads((tmp_path / "out/stats.json").read_text()) == stats
    assert (tmp_path / "out/stats.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(UserError, match=r"holds no traces\.jsonl"):
        write_stats(tmp_path)


def test_the_export_is_a_data_set_with_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    write_set(tmp_path / "set", 9)
    config = settings(tmp_path, quality={"near_duplicate": 1.0})
    run_build(config, roles=scripted_roles())
    folder = export(config)
    data = datasets.load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache"))
    assert len(data) == 3
    row = data[0]
    assert row["images"][0].size == (32, 32) and row["completion"].endswith("\\boxed{2}") and row["answer"] == "2"
    assert row["looks"] == 1 and [r["verdict"] for r in json.loads(row["rounds"])] == [False, True]
    assert row["weak_pass_rate"] is None and row["choices"] == []
    card = (folder / "README.md").read_text()
    assert "3 first-person traces" in card and card.startswith("---\n") and "scripted (3)" in card
    assert export(config) == folder and not list((tmp_path / "out").glob("tmp*"))
    write_set(tmp_path / "none" / "set", 1)
    with pytest.raises(UserError, match="nothing to export"):
        export(settings(tmp_path / "none"))


@pytest.mark.parametrize(
    "row", [{"problem_id": "1"}, {"problem_id": ["1"]}, {"status": "kept"}, {"problem_id": "1", "status": "kept"}]
)
def test_traces_that_no_build_wrote_are_not_counted(row: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "traces.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(UserError, match="does not hold what a build writes there"):
        write_stats(tmp_path)
