"""Short words for what tests of the ledger do with it."""

from mmpo_train.config import TrialConfig
from mmpo_train.events import Point
from sweeps.ledger.ledger import Ledger
from sweeps.ledger.records import TrialRecord
from sweeps.ledger.stage_log import StageLog

EXPERIMENT = "tiny on tiny"
CONFIG = TrialConfig(learning_rate=5e-4)
LOSS = "training/loss"


def open_stage(ledger: Ledger, grid_key: str = "1e-4,5e-4", **given) -> StageLog:
    given = {"title": "learning rate", "params": {"axis": "learning_rate"}, "note": "Stage 1", **given}
    return ledger.open_stage(EXPERIMENT, "stage1", "mmpo", grid_key, **given)


def losses(first: int, last: int, timestamp: int = 1_000) -> list[Point]:
    return [Point(step, timestamp + step, {LOSS: 1 / step}) for step in range(first, last + 1)]


def find(ledger: Ledger, config: TrialConfig = CONFIG) -> TrialRecord:
    found = ledger.find_trial(EXPERIMENT, config.digest)
    assert found is not None
    return found


def runs_of(ledger: Ledger, config: TrialConfig = CONFIG) -> list:
    store = ledger.store
    return store.search(store.experiment_id(EXPERIMENT), {"trial.digest": config.digest})


def history(ledger: Ledger, run_id: str | None, metric: str = LOSS) -> list[tuple[int, float, int]]:
    assert run_id is not None
    points = ledger.store.client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value, point.timestamp) for point in points)
