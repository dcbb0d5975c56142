"""Leases: who owns rooms says so again and again, and when that ends, its live rooms fail.

``reaping`` has the flows that anybody may run; ``holding`` what the holder of a lease knows, and its flows;
``blocking`` and ``aio`` keep a lease alive from a thread or a task.
"""
