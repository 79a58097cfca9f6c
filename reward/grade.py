"""How a response becomes a grade: the answer that it gives, the verifier of the problem's domain, a score and a reason.

One rule for rewards, prompt selection, difficulty, improvement rounds, model cards, evaluation, audit and the agent loop. A
response that was cut off has no last line, so only an answer that it has boxed already counts.

Answers are untrusted: each is read in a child process that is ended when it takes too long (``reward.worker``). A timeout is
"cannot be judged", not "incorrect". Answers of domain ``open`` are graded by the judge of the process (``reward.judge``).
"""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple, Protocol

import vlm.response
from configs.errors import UserError
from reward.aliases import split_aliases
from reward.judge import MAX_QUESTION, NAME_ONE, OPEN, OUTCOMES, Case, current_judge
from reward.options import read_gold_option, read_option
from reward.parsing import MAX_CHARACTERS
from reward.quantity import canonical, point_notation, read_quantity
from reward.structures import read_pairs
from reward.verifiers import VERIFIERS, Verdict, split_tolerance
from reward.worker import Pool
from vlm.problem import gold_text
from vlm.response import parse_response

CPU_SECONDS = 0.15
"""CPU limit for one answer, which usually takes 0.3 ms. The limit for expressions is measured on the machine
(``reward.expression.warm_up``)."""
CLOCK_SECONDS = 60.0
"""Wall-clock limit, for a child that waits for a busy machine. An endless loop reaches the CPU limit first."""


class Gradable(Protocol):
    """What grading needs of a problem: a ``vlm.problem.Problem`` has it, and so has ``Gold``."""

    @property
    def domain(self) -> str: ...
    @property
    def answer(self) -> str: ...
    @property
    def choices(self) -> Sequence[str] | None: ...
    @property
    def decimal(self) -> str: ...
    @property
    def question(self) -> str: ...


class Gold(NamedTuple):
    """A gold answer by itself. ``domain`` is a key of ``VERIFIERS`` or ``open``; ``choices`` are in the order in which they were shown.

    ``decimal`` is the decimal mark of all of them and of the answers: ``"."`` or ``","``. Only a judge reads the ``question``.
    """

    domain: str
    answer: str
    choices: Sequence[str] | None = None
    decimal: str = "."
    question: str = ""


@dataclass(frozen=True)
class Grade(Verdict):
    """A verdict on ``answer``, the final answer as it was read (None: the response gives none)."""

    answer: str | None = None

    @property
    def right(self) -> bool:
        """``correct``, by the name that users' rewards know."""
        return self.correct


def grade(problem: Gradable, response: str, finished: bool) -> Grade:
    """Grade a whole response.

    Args:
        finished: the model ended its turn itself. Of a response that was cut off only a boxed answer counts.

    Raises:
        UserError: the domain has no verifier, or its judge cannot be asked.
    """
    return grade_answer(problem, read_answer(response, finished))


def read_answer(response: str, finished: bool) -> str | None:
    """The final answer of a response, or None; see ``grade``."""
    return parse_response(response, finished).answer


def grade_answer(problem: Gradable, answer: str | None) -> Grade:
    """Grade a final answer alone (not the whole response); None, where the response gives none, scores 0.

    A gold answer with aliases is met by any of them.

    Raises:
        UserError: the domain has no verifier, or its judge cannot be asked.
    """
    if problem.domain not in VERIFIERS and problem.domain != OPEN:
        raise UserError(f"No verifier for the domain '{problem.domain}'; known are {', '.join(VERIFIERS)} and {OPEN}.")
    if answer is None or not answer.strip():
        return Grade(0.0, reason="no answer")
    if len(answer) > MAX_CHARACTERS:
        return Grade(0.0, {}, f"the answer is over {MAX_CHARACTERS} characters", answer)
    if len(gold_text(problem.answer)) > MAX_CHARACTERS:
        return Grade(None, {}, f"the gold answer is over {MAX_CHARACTERS} characters", answer)
    if problem.domain == OPEN:
        return _judged(problem, answer)
    golds = gold_aliases(problem)
    if len(golds) > 1 and problem.domain in ("text", "science"):
        golds.append(gold_text(problem.answer))  # "Sodium chloride (NaCl)" names two aliases
    first, *others = (_grade_by(gold, problem, answer) for gold in golds)
    return _most_favourable([first, *others]) if others else first


def _grade_by(gold: str, problem: Gradable, answer: str) -> Grade:
    request = _request(problem, answer, gold)
    if problem.domain == "expression":
        reply = _EXPRESSIONS.ask(request, _HUNG.share(answer))
        _HUNG.note(answer, reply is None)
    else:
        reply = _ANSWERS.ask(request)
    if reply is None:
        return Grade(None, {"timeout": 1.0}, "timeout", answer)
    if "unjudged" in reply:
        return Grade(None, {}, f"the gold answer is unreadable ({reply['unjudged']})", answer)
    if "error" in reply:
        return Grade(0.0, {}, f"unreadable ({reply['error']})", answer)
    return Grade(**reply, answer=answer)


def _most_favourable(grades: list[Grade]) -> Grade:
    """The grade by several aliases: the best one. If none is correct, an alias that timed out leaves the answer unjudged."""
    best = max(grades, key=lambda one: -1.0 if one.score is None else one.score)
    late = next((one for one in grades if "timeout" in one.parts), best)
    return best if best.correct else late


def gold_aliases(problem: Gradable) -> list[str]:
    """The texts of the gold answer by which an answer may be graded: one, unless ``|`` sets aliases apart."""
    gold = gold_text(problem.answer)
    if "|" not in gold or gold in (problem.choices or ()):
        return [gold]
    return split_aliases(gold, problem.domain)


def judge_fault(problem: Gradable) -> str:
    """Why no answer to a problem of domain ``open`` can be graded; empty if one can, and for all other domains.

    Raises:
        UserError: there is a judge, but it cannot be asked.
    """
    if problem.domain != OPEN:
        return ""
    if (asked := current_judge()) is None:
        return f"there is no judge: {NAME_ONE}"
    if len(problem.question) > MAX_QUESTION:
        return f"the question is over {MAX_QUESTION} characters"
    asked.try_out()
    return ""


def _judged(problem: Gradable, answer: str) -> Grade:
    asked, fault = current_judge(), judge_fault(problem)
    if asked is None or fault:
        return Grade(None, {}, fault, answer)
    (outcome,) = asked.outcomes([Case(problem.question, gold_text(problem.answer), answer)])
    score, reason = OUTCOMES[outcome]
    # The share of each is logged: what cannot be judged leaves its group, and must not vanish from sight.
    parts = {f"judge_{name}": float(name == outcome) for name, (given, _) in OUTCOMES.items() if given is None}
    return Grade(score, parts, reason, answer)


def judge_ahead(responses: Iterable[tuple[Gradable, str, bool]]) -> None:
    """Ask the judge about the open ones of many responses at the same time; ``grade`` then finds their outcomes.

    Args:
        responses: (problem, response, finished) as for ``grade``.

    Raises:
        UserError: the judge cannot be asked.
    """
    if (asked := current_judge()) is None:
        return
    read = [(one, read_answer(text, finished) or "") for one, text, finished in responses if one.domain == OPEN]
    cases = [Case(problem.question, gold_text(problem.answer), answer) for problem, answer in read if answer.strip()]
    asked.outcomes([case for case in cases if len(case.question) <= MAX_QUESTION and _are_short(*case[1:])])


def _are_short(*texts: str) -> bool:
    return all(len(text) <= MAX_CHARACTERS for text in texts)


def gradable(gold: Gradable) -> bool:
    """Whether answers can be graded by this gold answer: whether its verifier gives any answer a score, by each alias.

    The answer that is tried differs from the gold answer, because equal texts may pass without being parsed. A judge is tried
    out on a case of its own.

    Raises:
        UserError: the judge cannot be asked.
    """
    text = gold_text(gold.answer)
    if not text.strip() or len(text) > MAX_CHARACTERS:
        return False
    if gold.domain == OPEN:
        return not judge_fault(gold)
    pool = _EXPRESSIONS if gold.domain == "expression" else _ANSWERS
    replies = [pool.ask(_request(gold, "0", alias)) for alias in gold_aliases(gold)]
    return all(reply is not None and reply.get("score") is not None for reply in replies)


def _request(problem: Gradable, answer: str, gold: str) -> tuple[str, str, str, list[str] | None]:
    """What a worker is asked: domain, answer, gold answer (or an alias of it) and options, in point notation."""
    choices = [_in_points(problem, choice) for choice in problem.choices or ()]
    return problem.domain, _in_points(problem, answer), _in_points(problem, gold), choices or None


def _in_points(problem: Gradable, text: str) -> str:
    return point_notation(text) if problem.decimal == "," else text


def grading_sha256(problem: Gradable) -> str:
    """16 hexadecimal digits of a hash over everything but the response that decides a grade: the code and the gold answer."""
    gold = [verifier_sha256(), problem.domain, problem.answer, problem.choices, problem.decimal]
    if problem.domain == OPEN:
        gold += [problem.question, asked.identity if (asked := current_judge()) is not None else None]
    return hashlib.sha256(json.dumps(gold).encode()).hexdigest()[:16]


_READ_AND_VERIFY = (
    *("aliases", "cues", "judge", "parsing", "quantity", "units", "options", "yes_no"),
    *("arithmetic", "hedges", "number_words", "stated_value"),
    *("notation", "phrases", "structures", "tables"),
    *("text", "chemistry", "sentence", "dates", "spelling"),
    *("mathtext", "forms", "equality", "expression", "verifiers"),
)


@cache
def verifier_sha256() -> str:
    """The hash of the source files that read and grade an answer."""
    files = [__file__, vlm.response.__file__, *(Path(__file__).with_name(f"{name}.py") for name in _READ_AND_VERIFY)]
    return hashlib.sha256(b"\0".join(Path(str(file)).read_bytes() for file in files)).hexdigest()


# Answers and gold answers beyond their grade


def answer_name(problem: Gradable, answer: str | None) -> str | None:
    """The answer in a form under which equal answers are equal; None for no answer, which equals nothing."""
    if answer is None:
        return None
    option = chosen_option(problem, answer) if problem.choices else None
    return canonical(_in_points(problem, answer)) if option is None else f"option {option}"


def chosen_option(problem: Gradable, answer: str | None) -> int | None:
    """Index of the option that an answer names, or None."""
    _, answer, _, choices = _request(problem, answer or "", "")
    return read_option(answer, choices)


def gold_option(problem: Gradable) -> int | None:
    """Index of the correct option (by the first alias that names one), or None where the gold answer names none."""
    for alias in gold_aliases(problem):
        _, _, gold, choices = _request(problem, "", alias)
        if (index := read_gold_option(gold, choices or [])) is not None:
            return index
    return None


def share_of_facts_missed(answer: str | None, gold: str, correct: bool) -> float:
    """Share in [0, 1] of the words of ``gold``'s ``key: words`` statements that ``answer`` does not have in their place.

    A gold answer without such statements is one fact: it counts by whether the answer is ``correct``.
    """
    wanted = read_pairs(gold)
    if wanted is None:
        return 0.0 if correct else 1.0
    given = read_pairs(answer or "") or {}
    pairs = [
        pair
        for key, facts in wanted.items()
        for pair in zip_longest(facts.split(), given.get(key, "").split()[: len(facts.split())])
    ]
    return sum(fact != found for fact, found in pairs) / len(pairs)


def is_quantity(text: str) -> bool:
    """Whether a text is one number, perhaps with a unit."""
    return read_quantity(text) is not None


def as_written(problem: Gradable) -> str:
    """The gold answer as a response writes it: the first of its aliases, the value without its tolerance."""
    domain, gold = problem.domain, gold_aliases(problem)[0]
    if domain in ("number", "science"):
        gold, *stated = (part.strip() for part in split_tolerance(gold))
        unit = stated[0].lstrip("0123456789., ") if stated else ""
        if unit and not unit.startswith(("%", "\\%")) and gold.endswith(tuple("0123456789")):
            gold = f"{gold} {unit}"  # 12 ± 0.5 cm
    return gold


class Hung:
    """Shortens the CPU limit for answers whose shape (the text without its numbers) has timed out before.

    A policy that has found an answer on which the algebra system hangs repeats it with other numbers, and each one would
    cost the whole limit. An answer that is read in time clears the count of its shape. Every eighth answer gets the whole
    limit, so that a shape can recover.
    """

    TWICE, AGAIN, SHARE, SHAPES = 2, 8, 0.1, 1000

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}

    def share(self, answer: str) -> float:
        """The share of the CPU limit for the next answer of this shape."""
        count = self._counts.get(self._shape(answer), 0)
        return self.SHARE if count >= self.TWICE and count % self.AGAIN else 1.0

    def note(self, answer: str, ended: bool) -> None:
        """Count an answer that timed out (``ended``), or clear the count after one that was read."""
        shape = self._shape(answer)
        if not ended:
            self._counts.pop(shape, None)
            return
        if len(self._counts) >= self.SHAPES:
            self._counts.clear()  # a policy can invent shapes without end, so memory is bounded
        self._counts[shape] = self._counts.get(shape, 0) + 1

    @staticmethod
    def _shape(answer: str) -> str:
        return re.sub(r"\d+", "0", answer)


_HUNG = Hung()
_ANSWERS = Pool("answers", CPU_SECONDS, CLOCK_SECONDS)
_EXPRESSIONS = Pool(
    "expressions", 0.0, CLOCK_SECONDS
)  # a pool of its own: other domains need not wait for the algebra system
