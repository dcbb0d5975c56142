"""The local copy of the table that follows the change feed: decisions, no I/O."""
