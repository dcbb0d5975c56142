"""All checks by name, in the order in which equally bad findings are listed.

A name is also a value of the label ``check`` of the metric ``kvpoll_doctor_check``: it does not change.
"""

from __future__ import annotations

from redis_kvpoll.doctor import (
    key_types,
    loss_checks,
    memory_checks,
    node_checks,
    owner_checks,
    sample_checks,
    table_checks,
)
from redis_kvpoll.doctor.facts import Facts
from redis_kvpoll.doctor.findings import Finding, Level, severity
from redis_kvpoll.doctor.node_view import Check, each_node, with_info
from redis_kvpoll.doctor.replica import of_primary
from redis_kvpoll.doctor.sample_checks import of_sample
from redis_kvpoll.errors import printable

CHECKS: dict[str, Check] = {
    "reach": node_checks.reach,
    "busy": each_node(node_checks.busy),
    "role": with_info(node_checks.role),
    "cluster": table_checks.cluster,
    "eviction": with_info(memory_checks.eviction),
    "evicted": with_info(memory_checks.evicted),
    "memory": with_info(memory_checks.memory),
    "persistence": with_info(memory_checks.persistence),
    "fork": with_info(memory_checks.fork),
    "latency": each_node(node_checks.latency),
    "clock": each_node(node_checks.clock),
    "errors": with_info(node_checks.errors),
    "scripts": with_info(node_checks.scripts),
    "clients": with_info(node_checks.clients),
    "replicas": with_info(node_checks.replicas),
    "server": with_info(node_checks.server),
    "acl": table_checks.acl,
    "settings": table_checks.settings,
    "library": table_checks.library,
    "namespaces": table_checks.namespaces,
    "data_loss": of_primary(loss_checks.data_loss),
    "instances": of_primary(owner_checks.instances),
    "leases": of_primary(owner_checks.leases),
    "stuck": of_primary(of_sample(sample_checks.stuck)),
    "orphans": of_primary(of_sample(sample_checks.orphans)),
    "refused": of_primary(loss_checks.refused),
    "corrupt": key_types.shared_first(of_sample(sample_checks.corrupt)),
    "ttls": of_sample(sample_checks.ttls),
    "leaks": of_primary(of_sample(sample_checks.leaks)),
    "feed": of_primary(table_checks.feed),
    "feed_lag": table_checks.feed_lag,
}


def run(facts: Facts) -> list[Finding]:
    """Return what every check finds, the worst first. If no server could be asked, only that is known."""
    checks = {name: check for name, check in CHECKS.items() if not facts.error or name == "reach"}
    found = []
    for name, check in checks.items():
        level, *texts = check(facts)
        found.append(Finding(name, level, *map(printable, texts)))  # keys, owners and errors are others' text
    if facts.error:
        found += [Finding(name, Level.UNKNOWN, "no server could be asked") for name in CHECKS if name != "reach"]
    return sorted(found, key=severity, reverse=True)
