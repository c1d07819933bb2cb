"""A benchmark: a grid of runs, trained, measured and ranked in one table."""
