"""Mathematical equality of two answers, by their form and by the algebra system, of texts that are short, shallow and not towers of powers.

``compare`` is called in the child process of ``reward.worker``, which ends it when it takes too long.
"""

import re
import time
from functools import lru_cache
from typing import Literal

from reward.equality import has_values, parse_value, same_form, states
from reward.forms import read_form
from reward.mathtext import is_prose, math_text
from reward.sentence import said_answers
from reward.stated_value import read_stated

Comparison = Literal["equal", "different", "unreadable", "unreadable gold"]

MAX_EXPRESSION = 500
MAX_NESTING = 30
PATIENCE = 10
"""Times the mean of the typical comparisons; the longest of them takes less."""

# Numbers too large to compute: a tower of powers, an exponent or a factorial of five digits, a factorial of a factorial.
_TOO_LARGE = re.compile(
    r"\d\s*[)}]?\s*\^[\s{(-]*\d+\s*[)}]?\s*\^|\^[\s{(+-]*\d{5}|(?:\d{5}|\^\s*\{?\s*\d+)\s*[)}]{0,3}\s*!|!\s*[)}]*\s*!|\d{5,}[\s}]*(?:\\choose|\{)"
)

_TYPICAL = [
    ("x + 1", "1+x"),
    ("(x+1)^2", "x^2+2x+1"),
    (r"\frac{\sqrt{3}}{2}", r"\sin(\pi/3)"),
    (r"\{1,2,3\}", r"\{3,2,1\}"),
    ("(1,2)", "(2,1)"),
    (r"x \in [1,2)", "[1,2)"),
    (r"\frac{1}{x+1}+\frac{1}{x-1}", r"\frac{2x}{x^2-1}"),
    (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", r"\begin{pmatrix}1&2\\3&5\end{pmatrix}"),
    (r"e^{i\pi}", r"\log_2 8"),
    (r"\int_0^1 x dx", r"\sum_{k=1}^{3} k"),
    (r"x < 3", r"x \le 3 \cup x > 5"),
    (r"|x-1|", r"\lfloor x \rfloor"),
    (r"5!", r"\binom{4}{2}"),
    (r"\sin^2 x + \cos^2 x", "1"),
    (r"\tan(x)", r"\frac{\sin x}{\cos x}"),
    (r"\ln(4)", r"2\ln 2"),
    (r"\sum_{k=1}^{n} k", r"\frac{n(n+1)}{2}"),
    (r"\frac{x^2-1}{x-1}", "x+1"),
    (r"\sqrt{2+\sqrt{3}}", r"\frac{\sqrt{6}+\sqrt{2}}{2}"),
    (r"\lim_{x\to0}\frac{\sin x}{x}", "1"),
    (r"(a+b)^3", "a^3+3a^2b+3ab^2+b^3"),
    (r"\dfrac{1}{x}", "x^{-1}"),
    (r"x=\frac{-b\pm\sqrt{b^2-4ac}}{2a}", r"\frac{-b\pm\sqrt{b^2-4ac}}{2a}"),
    ("2x-2y=10", "x-y=5"),
    (r"\frac{x^2}{4}+\frac{y^2}{4}=1", "x^2+y^2=4"),
    ("S = 3 \\cdot 4 = 12", "12"),
    ("1≤x<2", "[1,2)"),
    ("y=3, x=5", "x=5, y=3"),
    ("6·√5 cm", r"6\sqrt{5}"),
    (r"45^\circ 30'", r"45.5^\circ"),
    ("C_5^2", "10"),
]
"""One comparison of each kind of notation: the first one of a kind takes ten times as long as the next."""


def compare_expressions(answer: str, gold: str) -> Comparison:
    """Whether two answers are mathematically equal. An answer beyond the limits is unreadable, and so is a text without an expression."""
    if not readable(gold):
        return "unreadable gold"
    if not bounded(answer):
        return "unreadable"
    want, got = read_form(gold), read_form(answer)
    if same_form(want, got):
        return "equal"
    written = math_text(answer)
    if is_prose(written) and "\\" not in written and states(want, read_stated(answer)):
        return "equal"
    if (got.kind == "words" or is_prose(written)) and any(
        same_form(want, read_form(said)) for said in said_answers(answer)
    ):
        return "equal"
    return "unreadable" if got.kind == "words" else "different"


def warm_up() -> float:
    """Import the algebra system and let its grammar meet the usual notation.

    Returns:
        The CPU seconds that one comparison may take on this machine: ``PATIENCE`` times the mean of the typical ones, once they
        are known; 0.1 to 1. A fixed number would be another limit on each machine.
    """
    passes = []  # the fastest counts: the first passes still fill the grammar's caches
    for _ in range(4):
        for cache in (readable, read_form, math_text, parse_value):
            cache.cache_clear()
        began = time.process_time()
        for answer, gold in _TYPICAL:
            compare_expressions(answer, gold)
        passes.append(time.process_time() - began)
    return min(1.0, max(0.1, PATIENCE * min(passes) / len(_TYPICAL)))


def bounded(text: str) -> bool:
    """Whether a text is short, its brackets shallow and its numbers of a size that can be written down.

    The grammar's time grows steeply with the first two, and the algebra system works out ``9^{9^9}`` before it compares.
    """
    depth = deepest = 0
    for letter in text:
        depth += (letter in "([{") - (letter in ")]}")
        deepest = max(deepest, depth)
    return len(text) <= MAX_EXPRESSION and deepest <= MAX_NESTING and not _TOO_LARGE.search(text.replace("**", "^"))


@lru_cache(maxsize=256)
def readable(gold: str) -> bool:
    """Whether the values of a gold answer can be read. All responses to one problem are compared with the same one."""
    return bounded(gold) and has_values(read_form(gold))
