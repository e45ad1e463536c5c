"""A stage on a real cluster of several raylets, one of which is drained as Ray's autoscaler does it for spot nodes."""

from random import Random

import pytest

from faults.engine import Case
from faults.goodput import trained
from faults.inputs import write_inputs
from faults.machines import Machines
from faults.stage import Stage
from faults.stage_faults import on
from faults.stages import stage_command

EPOCHS = 8
STEPS = 400 * 9 // 10 // 6 * EPOCHS
"""Nine in ten pairs are trained on, six a step."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_node_that_is_taken_away_with_notice_costs_no_step(tmp_path):
    """No state is written within an epoch but for the notice: without it the node's trial would train up to sixty steps
    again. The node is killed when its workers have left it; they have 20 s."""
    case, (model, data) = Case("stages", "notice", Random(0), tmp_path), write_inputs(tmp_path, 400)
    words = [*stage_command(model, data, case.storage, EPOCHS), "--set", "checkpoint_minutes=0"]
    with Machines() as machines:
        stage = Stage(words, case, STEPS, machines)
        try:
            while stage.goes_on(0.1) and not any(step % 60 > 15 for step in stage.heard().values()):
                pass
            assert on(machines)["node taken away with notice"](stage, case.random), stage.words_said()
            stage.finish()
        finally:
            stage.kill()
    assert trained(case.storage) == (2 * STEPS, 0)
