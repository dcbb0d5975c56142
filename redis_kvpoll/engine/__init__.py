"""Every decision on batching, retries, recovery and leases. No I/O.

A decision that needs I/O is a generator: it yields effects, and a driver in ``sync`` or ``aio`` performs them. To add
an effect: define it in ``effects``, and perform it in ``perform`` of both transports.

The modules here are about one call. ``recovery`` keeps what must survive a loss of data, ``leases`` who is alive.
"""
