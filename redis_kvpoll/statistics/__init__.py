"""Aggregates of one namespace's table, kept from a paced reading of its change feed: decisions, no I/O."""
