"""Where a stage computes: the `machine` section. Imports no torch."""

from typing import Literal

from ..settings.fields import Section, option


class Machine(Section):
    """Where, and in which dtype, a stage computes."""

    device: str = option("auto", "auto, cpu, cuda, cuda:N or mps.", "--device", identity=False)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = option(
        "auto", "Dtype of the networks; auto takes one that is fast on the hardware.", "--precision"
    )
    compile: bool | None = option(
        None,
        "Compile the networks with torch.compile; by default in a long train-dit only.",
        "--compile/--eager",
        identity=False,
    )
    deterministic: bool = option(
        False,
        "On a GPU: the same bits every time, slower, and a warning of what cannot give them; a CPU gives them anyway.",
        identity=False,
    )
    threads: int = option(0, "CPU threads; 0 leaves the choice to torch.", identity=False, ge=0)
