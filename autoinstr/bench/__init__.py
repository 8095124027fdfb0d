"""``autoinstr bench``: what tracing costs, with confidence intervals, and a refusal to answer where it cannot be told.

docs/bench.md has the design. Nothing here is imported by the agent, and nothing here imports the agent's runtime or the
backend: programs, generators and the sink are processes of their own.
"""
