"""The one evaluator: full ranking, per-user metrics."""
