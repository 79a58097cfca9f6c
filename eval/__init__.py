"""Accuracy and grounding measures, statistics, report."""
