"""Verifiers, table by table: right, wrong and hostile answers; and the limits of the process that reads them."""

import time
from pathlib import Path

import pytest
from verifier_cases import RESPONSES, TABLES, verify

from configs.errors import UserError
from reward import grade
from reward.judge import OPEN
from reward.verifiers import VERIFIERS
from reward.worker import Worker, map_in_threads
from vlm.problem import DOMAINS
from vlm.response import parse_response

CASES = [(domain, *case[:3], case[3] if len(case) > 3 else None) for domain, cases in TABLES.items() for case in cases]


@pytest.mark.parametrize(("domain", "answer", "gold", "score", "choices"), CASES)
def test_cases(domain: str, answer: str, gold: str, score: float | None, choices: list[str] | None) -> None:
    verdict = verify(domain, answer, gold, choices)
    assert verdict.score == (None if score is None else pytest.approx(score)), verdict
    assert verdict.correct == (score == 1.0)
    assert verdict.reason


def test_every_domain_has_a_verifier_and_a_table() -> None:
    assert set(DOMAINS) - {OPEN} == set(VERIFIERS) == set(TABLES)  # open answers have a judge (test_judge.py)


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_answer_is_wrong_and_says_so(domain: str) -> None:
    for answer in (None, "", "   "):
        assert verify(domain, answer, "1").score == 0.0
        assert verify(domain, answer, "1").reason == "no answer"


HOSTILE = [
    "{" * 1_000_000,
    "\\frac{" * 300,
    "9" * 2000,
    "(" * 1999,
    "\\boxed{" * 200,
    "\x00\ufffd\u202e",
    "١٢٣",
    "a" * 1999,
]
HOSTILE += [
    "|" * 1999,
    "=" * 1999,
    "," * 1999,
    "1/" * 900,
    "[[" * 900,
    "\n" * 1000 + "x",
    "½",
    "∞",
    "NaN",
    "-",
    "\\",
    "$$",
]


@pytest.mark.parametrize("domain", [domain for domain in VERIFIERS if domain != "expression"])
def test_hostile_answers_neither_raise_nor_take_long(domain: str) -> None:
    golds = {"number": "5", "count": "5", "choice": "B", "yes_no": "yes", "science": "5 m"}
    started = time.monotonic()
    for answer in HOSTILE:
        verdict = verify(domain, answer, golds.get(domain, "a: 1; b: 2"))
        assert verdict.score == 0.0, (domain, answer[:20], verdict)
    assert time.monotonic() - started < 5.0


@pytest.mark.parametrize("domain", VERIFIERS)
def test_blanks_and_dress_do_not_change_a_score(domain: str) -> None:
    for case in TABLES[domain][:8]:
        answer, gold, score = case[:3]
        choices = case[3] if len(case) > 3 else None
        for dressed in (f"  {answer}\t", f"${answer}$", f"\\text{{{answer}}}"):
            if not set("${\n") & set(answer):
                assert verify(domain, dressed, gold, choices).score == verify(domain, answer, gold, choices).score, (
                    dressed
                )
        del score


def test_an_unknown_domain_is_named() -> None:
    with pytest.raises(UserError, match="painting"):
        verify("painting", "1", "1")


@pytest.mark.parametrize(("response", "domain", "gold", "score"), RESPONSES)
def test_whole_responses(response: str, domain: str, gold: str, score: float) -> None:
    assert verify(domain, parse_response(response).answer, gold).score == score


def test_there_are_at_least_300_cases() -> None:
    assert len(set(map(str, CASES))) + len(RESPONSES) >= 300


HANGS = r"\int \sqrt{\sin(x^5+1)} e^{\cos(x^3)} dx"


def test_a_hanging_expression_is_a_timeout_and_is_not_wrong() -> None:
    verdict = verify("expression", HANGS, "x+1")
    assert verdict.score is None and not verdict.correct
    assert verdict.reason == "timeout" and verdict.parts == {"timeout": 1.0}
    assert verify("expression", "1+x", "x+1").correct


def test_a_shape_that_hangs_again_is_given_little_time_until_one_is_read() -> None:
    hung = grade.Hung()
    assert hung.share("2^{3}") == 1.0
    hung.note("2^{3}", ended=True)
    assert hung.share("2^{4}") == 1.0
    hung.note("7^{5}", ended=True)
    assert hung.share("2^{44}") == hung.SHARE and hung.share("2^{x}") == 1.0
    for _ in range(6):
        hung.note("1^{2}", ended=True)
    assert hung.share("2^{3}") == 1.0  # the eighth may take its time
    hung.note("1^{2}", ended=True)
    assert hung.share("2^{3}") == hung.SHARE
    hung.note("1^{1}", ended=False)
    assert hung.share("2^{3}") == 1.0
    for number in range(3 * hung.SHAPES):
        hung.note("x" * number, ended=True)
    assert len(hung._counts) <= hung.SHAPES


def test_a_worker_lives_on_after_a_timeout_and_after_its_death() -> None:
    worker = grade._EXPRESSIONS.workers[-1]  # the one that the pool takes first
    for _ in range(2):
        assert worker.ask(("expression", "x+1", "1+x", None))["score"] == 1.0
        assert worker.ask(("expression", HANGS, "3", None)) is None
    assert worker._server is not None
    worker._server.kill()
    worker._server.wait()
    assert worker.ask(("expression", "x+1", "x+2", None))["score"] == 0.0


def test_the_clock_ends_what_only_waits(tmp_path: Path) -> None:
    file = tmp_path / "waits.py"
    file.write_text("import time\ndef wait(rollout):\n    time.sleep(1000)\n")
    worker = Worker(f"{file}:wait", cpu_seconds=5, clock_seconds=0.2, megabytes=None)
    try:
        assert worker.ask("anything") is None
    finally:
        worker.close()


def test_a_worker_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did not start: FileNotFoundError"):
        Worker(f"{tmp_path}/none.py:none", 1, 1).start()


def test_many_cases_are_graded_in_order() -> None:
    some = [(domain, answer, gold, choices) for domain, answer, gold, _, choices in CASES[::7]]
    assert [one.score for one in map_in_threads(lambda case: verify(*case), some)] == [
        verify(*case).score for case in some
    ]
