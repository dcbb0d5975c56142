"""The local copy of the table that follows the change feed. No I/O."""
