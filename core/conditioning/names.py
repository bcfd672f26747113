"""Names of the kinds of conditioning, which settings take from here. Imports no torch.

The code of each is in the module of that name, and `registry` lists them.
"""

from typing import Literal, get_args

DataKind = Literal["labels", "text", "attributes"]  # what images come with
KindName = Literal[DataKind, "none"]

KIND_NAMES: tuple[str, ...] = get_args(KindName)
