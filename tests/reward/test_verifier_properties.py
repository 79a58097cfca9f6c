"""What holds of every verifier whatever it is given: hypothesis looks for the text that breaks it."""

import time
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st
from verifier_cases import verify

from reward.expression import bounded
from reward.grade import CPU_SECONDS
from reward.units import read_unit
from reward.verifiers import (
    VERIFIERS,
    verify_choice,
    verify_count,
    verify_number,
    verify_science,
    verify_table,
    verify_text,
)
from vlm.response import parse_response

LINEAR = [
    domain for domain in VERIFIERS if domain != "expression"
]  # run here; an expression only ever runs in a worker
SYMBOLS = st.text(alphabet="0123456789.,-+−/^%{}[]()|:;=<>\\ $°eE²⁻abmskgAB\n\"'_!×\u00a0", max_size=60)
ANYTHING = st.one_of(st.text(max_size=200), SYMBOLS, st.builds(lambda piece, n: piece * n, SYMBOLS, st.integers(1, 30)))
BLANKS = st.text(alphabet=" \t\u00a0", max_size=3)
WHOLE = st.integers(-(10**9), 10**9)
quick = settings(max_examples=60, deadline=None)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(LINEAR), ANYTHING, ANYTHING)
def test_no_text_makes_a_verifier_raise_or_leave_its_range(domain: str, answer: str, gold: str) -> None:
    began = time.process_time()
    verdict = VERIFIERS[domain](answer[:2000], gold[:2000], None)
    assert time.process_time() - began < CPU_SECONDS
    assert verdict.score is None or 0.0 <= verdict.score <= 1.0
    assert all(isinstance(part, float) for part in verdict.parts.values())


@settings(max_examples=25, deadline=None)
@given(ANYTHING, ANYTHING)
def test_an_expression_never_raises_nor_exceeds_its_limit(answer: str, gold: str) -> None:
    verdict = verify("expression", answer, gold)
    assert verdict.score in (None, 0.0, 1.0)


@quick
@given(st.text(max_size=400))
def test_any_response_can_be_taken_apart_and_graded(response: str) -> None:
    assert verify_number(parse_response(response).answer or "", "5").score in (0.0, 1.0)


@quick
@given(WHOLE, BLANKS, BLANKS)
def test_equal_forms_of_a_whole_number(value: int, before: str, behind: str) -> None:
    gold = str(value)
    forms = [
        gold,
        f"{value:,}",
        f"{value}.0",
        f"{value}.",
        f"${value}$",
        f"\\text{{{value}}}",
        f"x = {value}",
        f"{value}/1",
    ]
    forms += [gold.replace("-", "−"), f"{value * 2}/2", f"{value * 100}%" if value else "0%"]
    for form in forms:
        assert verify_number(f"{before}{form}{behind}", gold).score == 1.0, form
        assert verify_number(gold, form).score == 1.0, form
        if "%" not in form:
            assert verify_count(f"{before}{form}{behind}", gold).score == 1.0, form
    assert verify_number(str(value + 1), gold).score == 0.0


@quick
@given(st.integers(-999, 999), st.integers(1, 999))
def test_equal_forms_of_a_fraction(above: int, below: int) -> None:
    sign, size = ("-" if above < 0 else ""), abs(above)
    forms = [f"{above}/{below}", f"{above} / {below}", f"{sign}\\frac{{{size}}}{{{below}}}", f"{above * 3}/{below * 3}"]
    for form in forms:
        assert verify_number(form, f"{above}/{below}").score == 1.0, form
    value = Fraction(above, below)
    assert verify_number(f"{float(value):.12f}", f"{float(value):.6f}").score == 1.0


@quick
@given(
    WHOLE,
    st.sampled_from([("km", "m", 1000), ("kg", "g", 1000), ("h", "min", 60), ("m", "mm", 1000), ("kJ", "J", 1000)]),
)
def test_a_converted_quantity_is_the_same(value: int, units: tuple[str, str, int]) -> None:
    large, small, factor = units
    assert verify_number(f"{value * factor} {small}", f"{value} {large}").score == 1.0
    assert verify_science(f"{value} {large}", f"{value * factor} {small}").score == 1.0
    assert value == 0 or verify_number(f"{value} {small}", f"{value} {large}").score == 0.0


@quick
@given(st.text(max_size=120))
def test_a_unit_is_itself(name: str) -> None:
    assert read_unit(name) == read_unit(f" {name} ")


WORDS = st.lists(
    st.sampled_from(["red", "blue", "green", "star", "square", "circle", "dog", "cat"]), min_size=1, max_size=4
)


@quick
@given(WORDS, BLANKS, st.booleans())
def test_words_whatever_their_blanks_and_case(words: list[str], blanks: str, upper: bool) -> None:
    gold = " ".join(words)
    said = f"{blanks}the {'  '.join(words)}.{blanks}"
    assert verify_text(said.upper() if upper else said, gold).score == 1.0
    assert verify_text(f"{gold} bird", gold).score == 0.0


@quick
@given(st.permutations(["red star", "blue circle", "green square", "none"]), st.integers(0, 3))
def test_shuffled_options_keep_the_verdict(options: list[str], index: int) -> None:
    gold, letter = "blue circle", "ABCD"[index]
    right = options[index] == gold
    for said in (letter, letter.lower(), f"({letter})", f"{letter}) {options[index]}", options[index]):
        assert verify_choice(said, gold, list(options)).correct == right


@quick
@given(st.dictionaries(st.sampled_from("abcdefg"), st.integers(0, 9), min_size=2), st.randoms(use_true_random=False))
def test_the_order_of_rows_is_free(cells: dict[str, int], random: object) -> None:
    rows = [f"{key}: {value}" for key, value in cells.items()]
    gold = "; ".join(rows)
    random.shuffle(rows)  # type: ignore[attr-defined]
    assert verify_table("; ".join(rows), gold).score == 1.0
    assert verify_table("\n".join(rows), gold).score == 1.0


@quick
@given(st.integers(2, 9), st.sampled_from(["{}**{}**{}", "{}^{{{}^{}}}", "{}^{}^{}"]))
def test_towers_of_powers_are_not_even_tried(digit: int, form: str) -> None:
    assert not bounded(form.format(digit, digit, digit))
