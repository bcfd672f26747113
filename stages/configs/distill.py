"""Settings of `ldm distill`: the teacher, the students' steps, their training."""

from typing import ClassVar

from ...core.training.tasks.settings import DistillTraining


class Distill(DistillTraining):
    """Settings of `ldm distill`."""

    command: ClassVar[str] = "distill"
    kind: ClassVar[str] = "students"
