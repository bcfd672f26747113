"""Settings of `ldm distill`: the teacher, the students' steps, their training."""

from typing import ClassVar

from ...core.training.tasks.settings import DistillTraining


class Distill(DistillTraining):
    """Settings of `ldm distill`."""

    command: ClassVar[str] = "distill"
    kind: ClassVar[str] = "students"
    examples = (
        "ldm distill --name mine --steps 4",
        "ldm sample --name mine --denoiser runs/mine/students/4 --class 3 --cfg 3",
        "ldm distill --steps 1 --guidance 1,5 --images 200k",
    )
