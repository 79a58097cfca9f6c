"""The page on which a person sees where a model looks while it thinks, and tests it."""
