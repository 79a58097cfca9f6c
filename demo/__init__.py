"""A web page that shows where a model looks while it reasons, and tests whether it does."""
