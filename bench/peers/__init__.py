"""The alternatives to this table: how fast they are, whether they are correct, and what they lack.

To add one: write a subclass of Way, add it to WAYS in ``contest``, and its service, if any, to ``bench.services``.
"""
