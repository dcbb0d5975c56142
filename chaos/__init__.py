"""The table under violence: real servers and workers are killed, stopped and cut off; a history is kept and checked.

Run it by ``make chaos`` (``LONG=1`` for the long form), or ``python -m chaos``. From the bottom to the top:

history              what every worker did and was told, call by call; what was done to it
checker, rules       what no history may show (pure)
worker, calls        a process that uses the table, and can be killed or stopped at any moment
crew                 the workers of one run
servers, replicas, clusters, network      what they use, and ways to hurt it
faults, scenarios    which of that is done to whom
run, report          one scenario from its beginning to its verdict; what is printed
"""
