"""A replay: prefill/decode traffic by real processes over one shared table, with faults.

traffic     the requests: from a trace, or generated with a trace's statistics
fault_plan  the faults of each request, from the seed
messages    what the processes send to each other
handshake   one side's part in a request, step by step; no I/O
side_table  the table of one side, what a worker knows of it, and how long calls to it take
writers     how a worker writes: plain calls, or room handles under a lease
worker      a process that runs many handshakes
pool        the worker processes
router      the process that assigns rooms and requests, and kills and replaces workers
pacing      how many requests a host carries at once, and how long to wait for it; pure
plain_dict  what the same messages would have done to SGLang's dict; pure
ledger      the results of all requests and rooms; pure
mirror_check  mirrors of both tables beside the workers, compared with calls
sweep       checks of both tables, independent of the workers
counters    the measurements, added up
report      the figures, and the guarantees that they violate
runner      the server and the router, for the duration of a replay
"""
