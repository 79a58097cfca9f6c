"""Rewards: verifiers by domain, format, attention terms, group-wise terms."""
