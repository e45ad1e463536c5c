"""The state of an optimiser on disk, in a form that any number of workers, ZeRO stage and engine can read.

weights.safetensors          the trained parameters in fp32, by name
exp_avg.safetensors          AdamW's first moments
exp_avg_sq.safetensors       AdamW's second moments
optimizer.json               {"steps": number of steps that the optimiser has made}
eight_bit-0000.safetensors   bytes of worker 0's 8-bit moments, for a resume with the same division among workers
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from mmpo_train.engines.optimizers import bytes_of, moments, moments_from_bytes, set_moments, steps_made

WEIGHTS = "weights"
MOMENTS = ("exp_avg", "exp_avg_sq")


class Share(NamedTuple):
    """The part of a parameter that this worker's optimiser updates; positions count in flattened tensors."""

    tensor: int
    """Number of the optimiser's tensor that has it."""
    offset: int
    """Its first position in that tensor."""
    start: int
    """Its first position in the parameter."""
    size: int
    """Number of its values."""


class Shares(NamedTuple):
    """The positions of the trained parameters in the tensors, all fp32, that this worker's optimiser updates."""

    optimizer: Optimizer
    tensors: Sequence[Tensor]
    shapes: Mapping[str, torch.Size]
    """Shapes of all trained parameters, in the same order on all workers."""
    of: Mapping[str, Share]
    """This worker's share of each parameter of which it has one."""
    writes: bool = True
    """Whether this is worker 0."""
    part: int = 0
    """Number of this set of shares: the worker's number, or 0 if every worker holds everything."""
    combine: Callable[[Tensor], None] = lambda whole: None
    """Sums a flat tensor over workers with different shares, at least on worker 0. All of them call it."""


def save(folder: Path, shares: Shares) -> None:
    """Write the state into a staged folder. Every worker calls it; worker 0 gathers and writes one file at a time."""
    steps = steps_made(shares.optimizer, shares.tensors)
    _save_whole(folder / f"{WEIGHTS}.safetensors", shares, shares.tensors)
    if steps:
        both = [moments(shares.optimizer, tensor) for tensor in shares.tensors]
        for number, name in enumerate(MOMENTS):
            _save_whole(folder / f"{name}.safetensors", shares, [pair and pair[number] for pair in both])
        _save_bytes(folder, shares)
    if shares.writes:
        (folder / "optimizer.json").write_text(json.dumps({"steps": steps}) + "\n")


def load(folder: Path, shares: Shares) -> None:
    """Load this worker's share from a verified folder into its tensors and optimiser, without other workers."""
    _load_whole(folder / f"{WEIGHTS}.safetensors", shares, shares.tensors)
    steps = json.loads((folder / "optimizer.json").read_text())["steps"]
    if not steps or _load_bytes(folder, shares, steps):
        return
    first, second = ([torch.zeros_like(tensor) for tensor in shares.tensors] for _ in MOMENTS)
    unmoved = {share.tensor for share in shares.of.values()}
    for name, values in zip(MOMENTS, (first, second), strict=True):
        unmoved -= _load_whole(folder / f"{name}.safetensors", shares, values)
    for number, tensor in enumerate(shares.tensors):
        if number not in unmoved:  # a parameter that never had a gradient has no moments
            set_moments(shares.optimizer, tensor, steps, first[number], second[number])


def _save_whole(path: Path, shares: Shares, tensors: Sequence[Tensor | None]) -> None:
    """Write `tensors`, which correspond to the optimiser's own; parameters in one that is None are left out."""
    from safetensors.torch import save_file

    gathered = {}
    for name, shape in shares.shapes.items():
        share = shares.of.get(name)
        tensor = shares.tensors[0] if share is None else tensors[share.tensor]
        if tensor is None:
            continue
        whole = torch.zeros(shape.numel(), dtype=torch.float32, device=tensor.device)
        if share is not None:
            mine = tensor.detach().flatten()[share.offset : share.offset + share.size]
            whole[share.start : share.start + share.size].copy_(mine)
        shares.combine(whole)
        if shares.writes:
            gathered[name] = whole.reshape(shape).cpu()
    if shares.writes:
        save_file(gathered, path)


def _load_whole(path: Path, shares: Shares, tensors: Sequence[Tensor]) -> set[int]:
    """Numbers of the `tensors`, which correspond to the optimiser's own, that were filled from this worker's shares."""
    from safetensors import safe_open

    filled = set()
    with safe_open(path, framework="pt", device="cpu") as file, torch.no_grad():
        there = set(file.keys())
        for name, share in shares.of.items():
            if name in there:
                mine = file.get_tensor(name).flatten()[share.start : share.start + share.size]
                tensors[share.tensor].view(-1)[share.offset : share.offset + share.size].copy_(mine)
                filled.add(share.tensor)
    return filled


def _save_bytes(folder: Path, shares: Shares) -> None:
    """Write 8-bit moments as they are: rounding them again, in blocks at other positions, would change them."""
    from safetensors.torch import save_file

    if not (shares.writes or shares.part):
        return
    held = {
        f"{number}.{name}": value.cpu()
        for number, tensor in enumerate(shares.tensors)
        for name, value in bytes_of(shares.optimizer, tensor).items()
    }
    if held:
        save_file(held, _bytes_file(folder, shares), {"shares": _fingerprint(shares)})


def _load_bytes(folder: Path, shares: Shares, steps: int) -> bool:
    """Whether this worker's 8-bit moments could be restored byte by byte."""
    from safetensors import safe_open

    path = _bytes_file(folder, shares)
    if not path.is_file():
        return False
    with safe_open(path, framework="pt", device="cpu") as file:
        if (file.metadata() or {}).get("shares") != _fingerprint(shares):
            return False
        held: list[dict[str, Tensor]] = [{} for _ in shares.tensors]
        for key in file.keys():  # noqa: SIM118  (no dict)
            number, _, name = key.partition(".")
            held[int(number)][name] = file.get_tensor(key)
    for tensor, values in zip(shares.tensors, held, strict=True):
        moments_from_bytes(shares.optimizer, tensor, steps, values)
    return True


def _bytes_file(folder: Path, shares: Shares) -> Path:
    return folder / f"eight_bit-{shares.part:04d}.safetensors"


def _fingerprint(shares: Shares) -> str:
    """A digest that is equal if the optimiser's tensors have the same values of the same parameters in the same
    places."""
    lie = [[tensor.numel() for tensor in shares.tensors], sorted((name, *share) for name, share in shares.of.items())]
    return hashlib.sha256(json.dumps([type(shares.optimizer).__name__, lie]).encode()).hexdigest()
