"""The plan of a training of a few steps, and plans with some of their settings changed."""

from typing import Any

from ldm.core.training.task import Plan

FEW_STEPS = Plan(
    images=28,
    batch_size=4,
    accumulate=1,
    lr=0.01,
    warmup=8,
    decay="cosine",
    weight_decay=0.1,
    beta1=0.9,
    beta2=0.99,
    clip=1.0,
    ema=0.9,
    checkpoint_every=12,
    keep=2,
    log_every=8,
    validate_every=12,
    tensorboard=False,
    seed=3,
)


def replace(plan: Plan, **settings: Any) -> Plan:
    """Return the plan with other settings."""
    return plan.model_copy(update=settings)
