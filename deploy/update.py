"""Writes the files in deploy/ that are made from the package. A test holds them to what this writes."""

from __future__ import annotations

import json
from pathlib import Path

from redis_kvpoll.monitoring.alerts import rules_file
from redis_kvpoll.monitoring.board import board
from redis_kvpoll.protocol import acl

HERE = Path(__file__).parent
USERS = {
    "kvpoll": ("WRITE_PASSWORD", acl.rule()),
    "kvpoll-read": ("READ_PASSWORD", acl.rule(read_only=True)),
    "operator": ("OPERATOR_PASSWORD", "~* &* +@all"),
}


def made() -> dict[str, str]:
    """Return the text of each file, by its path in deploy/."""
    rules = rules_file()
    users = [f"user {name} on >{password} {rule}" for name, (password, rule) in USERS.items()]
    head = (
        "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: kvpoll\n"
        "  labels: {app.kubernetes.io/name: kvpoll}\nspec:\n"
    )
    below = "".join(f"  {line}\n" for line in rules.splitlines()[1:])
    return {
        "monitoring/kvpoll.rules.yml": rules,
        "monitoring/kvpoll.json": json.dumps(board(), indent=2, ensure_ascii=False) + "\n",
        "kubernetes/prometheusrule.yaml": f"# Made by: python deploy/update.py\n{head}{below}",
        "valkey/users.acl": "\n".join(["user default reset on nopass +ping", *users, ""]),
    }


if __name__ == "__main__":
    for name, text in made().items():
        (HERE / name).write_text(text, encoding="utf-8")
