"""The ring of the training core: `mmpo train`, from its command line to its checkpoints."""

import json
import os
from functools import partial
from pathlib import Path
from typing import Any

from faults import files, processes
from faults.engine import Case, Found
from faults.inputs import STEPS_PER_EPOCH, command, write_inputs

EPOCHS = 3
STEPS = STEPS_PER_EPOCH * EPOCHS


class Training:
    """Trials of eighteen steps, with a state to continue from after almost each."""

    name = "training"

    def __init__(self, folder: Path) -> None:
        """Makes the inputs, and trains undisturbed."""
        import torch

        torch.set_num_threads(1)  # a process with threads does not fork well
        self.model, self.data = write_inputs(folder)
        whole, self.seconds = processes.undisturbed(self.work, self.name, folder)
        self.expected = outcome(whole.storage)
        size = sum(path.stat().st_size for path in whole.storage.rglob("*") if path.is_file())
        # A state that is damaged by hand is passed over, and so is one with its trial's whole folder.
        self.kinds: dict[str, Any] = {
            name: partial(processes.signalled, self.work, undisturbed=self.seconds, numbers=numbers)
            for name, numbers in processes.SIGNALS.items()
        }
        self.kinds |= {
            name: partial(files.damaged, self.work, undisturbed=self.seconds, damage=damage, but="lock$")
            for name, damage in files.DAMAGES.items()
        }
        self.kinds["stopped and woken"] = partial(processes.stopped, self.work, undisturbed=self.seconds)
        self.kinds["memory limit"] = partial(processes.out_of_memory, self.work, undisturbed=self.seconds)
        slow = {"inject": "fsync:delay_enter=200000", "proof": "(DELAYED)"}
        self.kinds["slow disk"] = partial(processes.meddled, self.work, undisturbed=self.seconds, **slow)
        fails = {"inject": "fsync:error=EIO:when=1", "proof": "(INJECTED)"}
        self.kinds["fsync fails"] = partial(processes.meddled, self.work, undisturbed=self.seconds, **fails)
        if os.geteuid() == 0:
            self.kinds["full disk"] = partial(files.full, self.work, size=size)
            self.kinds["read-only disk"] = partial(files.read_only, self.work, size=size, undisturbed=self.seconds)

    def work(self, storage: Path) -> None:
        """The whole program."""
        from mmpo_train.__main__ import main

        words = command(self.model, self.data, storage, EPOCHS)
        main([*words, "--set", "checkpoint_minutes=1e-9", "--set", "precision=fp32", "--learning-rate", "1e-3"])

    def compare(self, case: Case) -> Found:
        """Every step once, with the losses of the undisturbed trial, and its weights; one more run writes nothing."""
        found, got = Found(), outcome(case.storage)
        for name, value in self.expected.items():
            if got.get(name) != value:
                found.lost.append(f"{name}: {str(got.get(name))[:200]} instead of {str(value)[:200]}")
        steps = got["steps"]
        if len(steps) > len(set(steps)):
            found.doubled.append(f"steps {steps}")
        before = written(case.storage)
        processes.finish(self.work, case)
        if after := {path for path, when in written(case.storage).items() if before.get(path) != when}:
            found.doubled.append(f"one more run wrote {sorted(after)[:3]}")
        return found


def outcome(storage: Path) -> dict[str, Any]:
    """Losses by step and SHA-256 of the files of each checkpoint."""
    from mmpo_train.storage.manifest import is_whole, read_manifest

    (trial,) = (storage / "trials").iterdir()
    (state,) = (trial / "resume").glob("step-*")
    points = json.loads((state / "points.json").read_text())
    found: dict[str, Any] = {"steps": [step for step, _, _ in points]}
    for step, _, metrics in points:
        measured = {name: value for name, value in metrics.items() if not name.startswith("system/")}
        found[f"step {step}"] = {name: value for name, value in measured.items() if "second" not in name}
    for epoch in range(1, EPOCHS + 1):
        checkpoint = trial / "checkpoints" / f"epoch-{epoch:04d}"
        sums = read_manifest(checkpoint) if is_whole(checkpoint) else {}
        found[f"epoch {epoch}"] = sums.get("model.safetensors")
    return found


def written(storage: Path) -> dict[str, int]:
    """When the files of the checkpoints were written."""
    files_of = storage.glob("trials/*/checkpoints/*/*")
    return {str(path): path.stat().st_mtime_ns for path in files_of}
