"""A training's plan with some of its settings changed."""

from typing import Any

from ldm.core.training.task import Plan


def replace(plan: Plan, **settings: Any) -> Plan:
    """Return the plan with other settings."""
    return plan.model_copy(update=settings)
