"""What is wrong with a table and its server, and what to do about it: ``kvpoll doctor``.

``gather`` and what it uses read the facts; the checks are pure functions of the facts. A look writes nothing, and works
for the user of ``kvpoll acl --read-only``: what a user may not ask is not known, and no failure.

To add a check: write a function in ``node_checks`` or ``memory_checks`` (one server), in ``table_checks``,
``sample_checks`` or ``owner_checks``; name it in ``registry``; and break a real server for it in tests/doctor.
"""
