"""Facts as they stand in traces: the rewards read them too, so they live in ``reward.statements``."""

from reward.statements import STATEMENT, Statement, corrected_spans, final_statements, statements

__all__ = ["STATEMENT", "Statement", "corrected_spans", "final_statements", "statements"]
