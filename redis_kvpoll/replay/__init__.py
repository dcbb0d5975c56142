"""A replay of prefill/decode traffic by real processes over one shared table.

traffic     the requests: from a trace, or generated with a trace's statistics
hazards     what goes wrong with which request
messages    what the processes say to each other
handshake   one side's part in a request, step by step
worker      a process that runs many handshakes
router      the process that hands out rooms and work, kills and replaces workers
ledger      what became of every request and every room
report      the figures, and the promises that they break
runner      the server and the router, for as long as a replay lasts
"""
