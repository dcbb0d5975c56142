"""Every decision on batching, retries, recovery and leases. No I/O.

A decision that takes several effects is a generator. It yields effects; a driver in ``sync`` or ``aio`` performs them.
"""
