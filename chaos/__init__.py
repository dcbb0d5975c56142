"""Fault injection on real servers: a run kills, stops and disconnects them, records every call, and checks the history.

Run it by ``make chaos`` (``LONG=1`` for the long form) or ``python -m chaos``. From the bottom to the top:

history              every call of every worker with its reply, and every injected fault
checker, rules, fenced, recoveries, followed, told    what a history must not show (pure)
worker, calls, handles, holding, following    a process that uses the table until it is killed or stopped
plain                a plain redis-py client, for comparison
children, pool       the workers of one run
engine_process       a process of an engine that has an agent
engine               the processes of an engine, their agent, and its faults
servers, replicas, waking, lagging, clusters, proxy    what the workers use, and how it fails
faults, scenarios    which faults are injected where
standstill           when the machine itself stood still, which a checker must know
run, report          one scenario from start to result; what is printed

To add a scenario: write a context manager that yields a Setup, and add it to SCENARIOS. To add a fault: write a
function that returns a Fault, and put it into a scenario's list.
"""
