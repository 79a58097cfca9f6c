"""Rescoring, comparing, option orders, sampling, served models, lmms-eval."""

import json
from pathlib import Path
from typing import Any

import pytest
from scripted_subjects import COLOURS, always_looks, colour_problems, never_looks, scripted, seen

from configs.errors import ConfigError, UserError
from configs.jsonl import read_jsonl
from data_construction.roles import RolesConfig
from eval.choice_order import position_bias, rotate_options
from eval.compare import compare
from eval.harness import EvalConfig, evaluate, run_eval
from eval.lmms import lmms_command
from eval.subjects import ScriptedSubject, ServedSubject, Turn
from reflection_v.measure import with_backend
from reward.grade import gold_option
from vlm.backends import BackendError, Reply, Request, ScriptedBackend, check_key_has_one_server
from vlm.problem import Problem, write_problems


def saved_set(folder: Path, n: int = 12) -> list[Problem]:
    problems = colour_problems(folder, n)
    write_problems(problems, folder)
    return problems


def test_rescoring_grades_again_and_loads_nothing(tmp_path: Path) -> None:
    problems = saved_set(tmp_path)
    config = EvalConfig(k=2, sampled=4)
    first = run_eval("m", tmp_path, tmp_path / "out", config=config, load=lambda _: scripted(always_looks))
    assert first["models"]["m"]["accuracy"]["value"] == 1
    again = run_eval("m", tmp_path, tmp_path / "out", config=config, rescore=True)
    assert again["models"] == first["models"]
    problems[0].answer = "blue"  # a fixed gold answer
    write_problems(problems, tmp_path)
    mended = run_eval("m", tmp_path, tmp_path / "out", config=config, rescore=True)
    assert mended["models"]["m"]["accuracy"]["value"] == pytest.approx(11 / 12)
    more = [*problems, problems[1].model_copy(update={"id": "new"})]
    write_problems(more, tmp_path)
    figures = run_eval("m", tmp_path, tmp_path / "out", config=config, rescore=True)["models"]["m"]
    assert figures["accuracy"]["n"] == 12 and figures["errors"]["n"] == 1
    assert "not answered in the log" in next(iter(figures["errors"]["why"]))
    with pytest.raises(UserError, match="holds no evaluation of other"):
        run_eval("other", tmp_path, tmp_path / "out", rescore=True)
    with pytest.raises(UserError, match="no finished evaluation"):
        run_eval("m", tmp_path, tmp_path / "empty", rescore=True)


def test_every_row_says_by_what_prompt_and_verifier(tmp_path: Path) -> None:
    saved_set(tmp_path)
    run_eval("m", tmp_path, tmp_path / "out", config=EvalConfig(swap=0), load=lambda _: scripted(always_looks))
    rows = read_jsonl(tmp_path / "out/answers/m.main-think.jsonl")
    assert len({row["prompt_sha256"] for row in rows}) == 1 and all(len(row["graded"]) == 16 for row in rows)
    assert len({row["seed"] for row in rows}) == 12


def test_comparing_two_finished_evaluations(tmp_path: Path) -> None:
    saved_set(tmp_path)
    for name, function in (("a", always_looks), ("b", never_looks)):
        run_eval(name, tmp_path, tmp_path / name, load=lambda _, f=function: scripted(f))
    report = compare(tmp_path / "a", tmp_path / "b", tmp_path / "out")
    pair = report["paired"]["b-a"]
    assert pair["value"] == pytest.approx(-8 / 12) and pair["only_second"] == 8 and pair["n"] == 12
    assert "b − a" in (tmp_path / "out/report.html").read_text()
    assert json.loads((tmp_path / "out/report.json").read_text())["paired"]["b-a"]["mcnemar_p"] == pytest.approx(
        2 / 2**8
    )
    both = run_eval(
        "b", tmp_path, tmp_path / "c", against="a", load=lambda p: scripted({"a": always_looks, "b": never_looks}[p])
    )
    assert both["paired"]["b-a"]["value"] == pair["value"]
    with pytest.raises(UserError, match="is no finished evaluation"):
        compare(tmp_path / "a", tmp_path / "nowhere", tmp_path / "out")


def choice_problem(folder: Path) -> Problem:
    (problem,) = colour_problems(folder, 1)
    return problem.model_copy(update={"domain": "choice", "choices": ["green", "blue", "red"], "answer": "C"})


def test_rotation_keeps_the_right_option(tmp_path: Path) -> None:
    problem = choice_problem(tmp_path)
    turned = rotate_options(problem, 1)
    assert turned.choices == ["blue", "red", "green"] and turned.answer == "B" and gold_option(turned) == 1
    assert rotate_options(problem, 3).choices == problem.choices and rotate_options(problem, 3).answer == "C"
    by_words = problem.model_copy(update={"answer": "red"})
    letters = problem.model_copy(update={"choices": ["C", "A", "B"], "answer": "C"})  # the words: the first option
    assert [gold_option(rotate_options(letters, by)) for by in range(3)] == [0, 2, 1]
    assert rotate_options(by_words, 2).answer == "A" and rotate_options(by_words, 2).choices == ["red", "green", "blue"]


def test_position_bias_of_a_letter_lover_and_of_a_reader(tmp_path: Path) -> None:
    problem = choice_problem(tmp_path)

    def reader(turn: Turn) -> str:
        return f"\\boxed{{{'ABC'[(turn.choices or []).index(seen(turn))]}}}"

    for function, accuracy, chosen, same in (
        (lambda _: "\\boxed{A}", [0, 0, 1], {"A": 1.0}, 0),
        (reader, [1, 1, 1], None, 1),
    ):
        subject = ScriptedSubject(function, "s")
        config = EvalConfig(rotations=2, swap=0, blank=0)
        report = evaluate({"m": {"path": "m"}}, [problem], tmp_path / f"out{same}", config, load=lambda _, s=subject: s)
        bias = report["models"]["m"]["position_bias"]
        assert [one["value"] for one in bias["accuracy"]] == accuracy and bias["same_choice"]["value"] == same
        assert bias["gold"] == {"A": 1 / 3, "B": 1 / 3, "C": 1 / 3} == (bias["gold"] if chosen else bias["chosen"])
        assert chosen is None or bias["chosen"] == chosen
    assert position_bias([], [[], []])["same_choice"]["value"] is None


def test_sampled_scores_are_in_the_report(tmp_path: Path) -> None:
    problems = colour_problems(tmp_path)
    subject = ScriptedSubject(lambda turn: f"\\boxed{{{seen(turn) if turn.seed % 2 else 'grey'}}}")
    report = evaluate({"m": {"path": "m"}}, problems, tmp_path / "out", EvalConfig(k=3), load=lambda _: subject)
    sampled = report["models"]["m"]["sampled"]
    assert sampled["k"] == 3 and sampled["n"] == 12 and 0 < sampled["avg"]["value"] < 1
    assert sampled["pass"]["value"] >= sampled["maj"]["value"]


def test_served_subject(tmp_path: Path) -> None:
    async def reply(request: Request) -> Reply:
        text = str(request.messages[-1]["content"])
        if "Number 1:" in text:
            raise BackendError("the server answered 400")
        return Reply("\\boxed{red}", "length" if "Number 2:" in text else "stop", 10, 4)

    backend = ScriptedBackend(reply, "openai:m@x")
    subject: Any = ServedSubject(backend, parallel=2)
    problems = colour_problems(tmp_path, 4)
    report = evaluate(
        {"m": {"path": "m"}}, problems, tmp_path / "out", EvalConfig(swap=0, blank=0), load=lambda _: subject
    )
    figures = report["models"]["m"]
    assert figures["errors"] == {"n": 1, "why": {"the server answered 400": 1}} and figures["accuracy"]["n"] == 3
    assert figures["truncated_share"]["value"] == pytest.approx(1 / 3) and figures["length_mean"]["value"] == 4
    assert figures["accuracy_of_finished"]["n"] == 2
    shown = [Turn("q", None, "think", problems and [], reply="\\boxed{red}", again=(), note="Hint: blue.")]
    assert [message["role"] for message in shown[0].messages] == ["user", "assistant", "user"]
    assert "Hint: blue." in shown[0].messages[0]["content"][0]["text"]


def test_a_served_model_is_swapped_by_a_further_turn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def reply(request: Request) -> Reply:
        colour = request.images[-1].getpixel((0, 0))
        name = {value: name for name, value in COLOURS.items()}.get(colour, "grey")
        return Reply(f"\\boxed{{{name}}}", "stop", 10, 4)

    problems = colour_problems(tmp_path, 6)
    write_problems(problems, tmp_path / "set")
    subject: Any = ServedSubject(ScriptedBackend(reply, "openai:m@x"))
    config = EvalConfig(blank=0)
    for _ in range(2):
        report = run_eval("openai:m@x", tmp_path / "set", tmp_path / "out", config=config, load=lambda _: subject)
    figures = report["models"]["openai:m"] if "openai:m" in report["models"] else next(iter(report["models"].values()))
    assert "swap" not in figures and figures["swap_by_turn"]["difference"]["value"] == 1.0
    assert capsys.readouterr().err.count("known by its name and address alone") == 1
    again = run_eval("openai:m@x", tmp_path / "set", tmp_path / "out", config=config, rescore=True)
    assert next(iter(again["models"].values()))["swap_by_turn"]["difference"]["value"] == 1.0


def test_a_key_goes_to_one_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("KEY", "secret")
    check_key_has_one_server(["openai:a@http://h:1/v1", "openai:b@http://h:1/v1", "tiny"], "KEY")
    check_key_has_one_server(["openai:a@http://h:1/v1", "openai:b@http://h:2/v1"], None)
    models = {name: {"path": f"openai:{name}@http://{name}:1/v1"} for name in "ab"}
    with pytest.raises(ConfigError, match=r"several servers \(a:1, b:1\)"):
        evaluate(models, colour_problems(tmp_path, 2), tmp_path / "out", EvalConfig(api_key_env="KEY"))
    roles = RolesConfig.model_validate(
        {"reasoner": {"api_key_env": "KEY"}, "rewriter": {"model": "openai:w@http://o:1/v1"}}
    )
    assert roles.of("rewriter").api_key_env is None and roles.of("summarizer").api_key_env == "KEY"


def test_backend_options() -> None:
    assert (
        with_backend("m", "openai", "http://h:1/v1") == "openai:m@http://h:1/v1"
        and with_backend("m", None, None) == "m"
    )
    for arguments in (("m", "openai", None), ("openai:m@http://h/v1", "hf", None), ("m", None, "http://h/v1")):
        with pytest.raises(ConfigError):
            with_backend(*arguments)


def test_lmms_command() -> None:
    assert lmms_command("Qwen/Qwen2.5-VL-7B-Instruct", "mmmu_val", "out", 8)[2:] == [
        "lmms_eval", "--model", "qwen2_5_vl", "--model_args", "pretrained=Qwen/Qwen2.5-VL-7B-Instruct", "--tasks", "mmmu_val",
        "--batch_size", "1", "--log_samples", "--output_path", "out", "--limit", "8",
    ]  # fmt: skip
    assert "model_version=m,base_url=http://h/v1" in lmms_command("openai:m@http://h/v1", "mmmu_val", "out")
    with pytest.raises(ConfigError, match="no backend for tiny"):
        lmms_command("tiny", "mmmu_val", "out")


@pytest.mark.parametrize(
    "report",
    [{"models": [1]}, {"models": {"a": {}}}, {"models": {"a": {"style": "think"}}, "paired": 3}, {"models": 1}],
)
def test_a_report_that_no_evaluation_wrote_is_not_compared(report: dict[str, object], tmp_path: Path) -> None:
    saved_set(tmp_path)
    for name in ("a", "b"):
        run_eval(name, tmp_path, tmp_path / name, load=lambda _: scripted(always_looks))
    (tmp_path / "a" / "report.json").write_text(json.dumps(report))
    with pytest.raises(UserError, match=r"report\.json"):
        compare(tmp_path / "a", tmp_path / "b", tmp_path / "out")
