"""What faults cost: a long stage with a fault every so many seconds, beside the same stage undisturbed."""

import itertools
import json
import time
from pathlib import Path
from random import Random

from faults.engine import Case
from faults.inputs import write_inputs
from faults.stage import Stage
from faults.stage_faults import HERE, Fault, disturb
from faults.stages import stage_command
from sweeps.ledger.journal import FILE_NAME, read_entries

PAIRS, EPOCHS = 2_000, 20
STEPS = PAIRS * 9 // 10 // 6 * EPOCHS
CHECKPOINT_MINUTES = 0.1
FAULTS: dict[str, Fault] = {kind: fault for kind, fault in HERE.items() if kind.startswith("SIG")}
"""No damaged files: what they cost is not a matter of time."""


def goodput(folder: Path, every: float, seed: int) -> str:
    """Useful steps over all steps, and the time over the undisturbed time, in a sentence. Raises RuntimeError if the
    stage does not go on."""
    random = Random(seed)
    model, data = write_inputs(folder, PAIRS)
    took: list[float] = []
    for name in ("undisturbed", "disturbed"):
        case = Case("goodput", name, random, folder / name)
        case.folder.mkdir()
        began = time.monotonic()
        words = [*stage_command(model, data, case.storage, EPOCHS), "--set", f"checkpoint_minutes={CHECKPOINT_MINUTES}"]
        stage = Stage(words, case, STEPS)
        try:
            if name == "disturbed":
                kinds = random.sample(list(FAULTS), len(FAULTS))
                disturb(stage, FAULTS, ((every, 0, kind) for kind in itertools.cycle(kinds)), random)
            stage.finish()
        finally:
            stage.kill()
        took.append(time.monotonic() - began)
    steps, again = trained(case.storage)
    fired = {kind: row.fired for kind, row in case.rows.items()}
    return (
        f"{sum(fired.values())} faults, one every {every:g} s ({', '.join(fired)}). Of {steps + again} steps {steps} "
        f"({steps / (steps + again):.1%}) were useful. {took[1]:.0f} s instead of {took[0]:.0f} s, "
        f"{took[1] / took[0]:.2f} times as long."
    )


def trained(storage: Path) -> tuple[int, int]:
    """Steps of all trials, and how many of them the command had heard of before they were trained again: the journal
    has the time of the first training, the last state that of the last."""
    steps = again = 0
    for path in storage.glob(f"trials/*/{FILE_NAME}"):
        entries = [entry for entry in read_entries(path) if "train/epoch" in entry.get("metrics", {})]
        heard = {entry["step"]: entry["timestamp_ms"] for entry in entries}
        (history,) = path.parent.glob("resume/step-*/points.json")
        last = {step: timestamp_ms for step, timestamp_ms, _ in json.loads(history.read_text())}
        steps += len(last)
        again += sum(heard[step] != timestamp_ms for step, timestamp_ms in last.items())
    return steps, again
