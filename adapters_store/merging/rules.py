"""The arithmetic of the methods: from a method's parameters to a plan of `panels.py`.

`PLANS` has the names of `table.METHODS`. Symbols as there: v a member's value, w its weight, N members.
"""

from collections.abc import Callable, Mapping
from typing import Any

from adapters_store.merging.panels import Members, Plan

MakePlan = Callable[[Members, Mapping[str, Any]], Plan]


def overlap_average(members: Members, parameters: Mapping[str, Any]) -> Plan:
    return Plan(weights=members.weights, divisor="masks")


def average(members: Members, parameters: Mapping[str, Any]) -> Plan:
    return Plan(weights=members.weights, divisor=float(members.total))


def linear(members: Members, parameters: Mapping[str, Any]) -> Plan:
    return Plan(weights=members.weights)


PLANS: Mapping[str, MakePlan] = {
    "overlap_average": overlap_average,
    "average": average,
    "linear": linear,
}
