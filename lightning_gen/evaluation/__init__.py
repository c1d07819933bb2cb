"""Sample quality and likelihood, measured the same way for every family."""
