"""Types of accelerator: their names in Ray, their peaks, and which types a name allows."""

import re

from mmpo_train.config import nearest
from mmpo_train.errors import InputError
from sweeps.cluster.nodes import Nodes

PEAK_FLOP_PER_SECOND = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L40": 181e12,
    "A10G": 70e12,
    "L4": 121e12,
    "CPU": 50e9,
}
"""Peak of one accelerator (dense bf16, from NVIDIA's data sheets) and of one CPU core (fp32, a round number)."""

UNKNOWN_ACCELERATOR = "L40S"
"""The accelerator whose peak is used for types that are not in the table."""

ANY = "any"
"""Value of `--accelerator` that allows any GPU, CPUs if there is no GPU, and as many workers as fit."""
MEANT = {"L40": ("L40S", "L40")}
"""Names that allow several types. The paper says L40; clouds have the L40S, with the same memory."""


def accelerator_name(model: str) -> str:
    """Ray's name for a GPU of our table, such as `H100` for `NVIDIA H100 80GB HBM3`."""
    named = re.match(r"\w+\s+((?:[A-Z]+\s+)*[A-Z0-9]*\d[A-Z0-9]*)", model)
    return (named[1] if named else re.sub(r"^NVIDIA\s+", "", model)).strip().replace(" ", "-")


def known_accelerator(name: str, nodes: Nodes) -> str:
    """The type in Ray's spelling, or `any`. Raises InputError for a type that neither Ray nor the cluster knows."""
    known = {one.lower(): one for one in (*PEAK_FLOP_PER_SECOND, *nodes.gpu_types, *MEANT, ANY) if one != "CPU"}
    if name.lower() not in known:
        of_ray = rays_accelerators()
        if name.lower() not in {one.lower() for one in of_ray}:
            near = nearest(name.upper(), [*known.values(), *of_ray])
            usual = near if "did you mean" in near else nearest(name.upper(), known.values())
            raise InputError(f"--accelerator {name!r} is not a GPU type that Ray knows{usual}")
        known |= {one.lower(): one for one in of_ray}
    return known[name.lower()]


def rays_accelerators() -> list[str]:
    """All types of accelerator that Ray has a name for."""
    from ray.util import accelerators

    return [value for name, value in vars(accelerators).items() if name[0] != "_" and isinstance(value, str)]
