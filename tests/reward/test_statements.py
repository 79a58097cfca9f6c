"""Facts as text: found, compared by key, and taken back by a later one."""

from reward.statements import corrected_spans, final_statements, statements

TRACE = (
    "row 1: red none blue, red 1; row 2: none none green, red 0; 1 + 0 = 1. "
    "Wait, let me look at row 2 again. row 2: red none green, red 1; 1 + 1 = 2."
)


def test_statements_are_found_with_their_spans():
    found = statements(TRACE)
    assert [(s.key, s.value) for s in found] == [
        ("row 1", "red none blue"),
        ("row 2", "none none green"),
        ("row 2", "red none green"),
    ]
    assert all(TRACE[s.start : s.end] == s.value for s in found)


def test_only_what_is_taken_back_is_masked():
    assert [TRACE[start:end] for start, end in corrected_spans(TRACE)] == ["none none green"]
    assert corrected_spans("B2: red star. I look again. B2: red star.") == []


def test_the_last_statement_wins():
    assert final_statements(TRACE)["row 2"] == "red none green"


def test_prose_times_and_sums_are_no_statements():
    assert statements("I see a star, 3 + 4 = 7. At 10:30 it was dark.") == []


def test_long_text_is_read_in_little_time():
    assert statements("a" * 1_000_000) == []
    assert len(statements("b: c; " * 20_000)) == 20_000
