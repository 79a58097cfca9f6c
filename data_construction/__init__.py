"""Problems become reflection traces: sources, the agent loop, filters, cohesion rewrite."""
