"""Evaluators beside trials: sharing the training GPUs, on GPUs of their own, or of another type; never a deadlock."""

import pytest

from mmpo_train.errors import InputError
from sweeps.cluster.evaluator_seats import seat_evaluators
from sweeps.cluster.nodes import HEAD_NODE, NodeKind, Nodes, nodes_of
from sweeps.cluster.placement import concurrency, place
from sweeps.plan.options import SweepEvaluation, SweepOptions

HEAD = {HEAD_NODE: 1.0, "CPU": 0.0, "memory": 64e9}
L40S = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
L4 = {"CPU": 8.0, "GPU": 1.0, "accelerator_type:L4": 1.0}


def seated(nodes, actors, recipe="smollm2-135m", **settings):
    return seat_evaluators(place(SweepOptions(recipe=recipe), nodes), nodes, actors, SweepEvaluation(**settings))


@pytest.mark.parametrize("actors", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 18])
def test_sharing_evaluators_and_workers_fit_on_every_node_and_leave_no_place_for_another_worker(actors, gpus):
    """Ray adds up what is left of several GPUs, its autoscaler too: it must not look like a worker's share."""
    node = Nodes((NodeKind(64, gpus),), local=True)
    seat, resources, said = seated(node, actors, "tiny")
    assert 0 < seat.gpus * actors <= 1 - resources.gpus_per_worker + 1e-9
    assert gpus * (1 - resources.gpus_per_worker) < resources.gpus_per_worker and resources.gpus_per_worker > 0.5
    assert round(seat.gpus * 10_000) == pytest.approx(seat.gpus * 10_000) and "share the training GPUs" in said
    assert concurrency(resources, seat.leaves(node)) == gpus


@pytest.mark.parametrize("share", [0.5, 0.333, 0.25, 1 / 6])
def test_evaluators_leave_their_part_of_each_trials_share(share):
    node = Nodes((NodeKind(64, 1),), local=True)
    resources = place(SweepOptions(gpus_per_worker=share), node)
    seat, beside, _ = seat_evaluators(resources, node, 2, SweepEvaluation())
    assert concurrency(beside, seat.leaves(node)) == int(1 / share)
    assert int(1 / share) * beside.gpus_per_worker + 2 * seat.gpus <= 1 < (int(1 / share) + 1) * beside.gpus_per_worker
    assert beside.job()["gpu_share"] == share, "what it may have of the memory stays the same"


def test_sharing_evaluators_sit_on_the_type_that_trials_have():
    seat, _, _ = seated(nodes_of([HEAD, L40S, L4]), 2)
    assert seat.options == {"num_gpus": 0.025, "resources": {"accelerator_type:L40S": 0.001}}


def test_whole_gpus_are_taken_before_the_trials_where_one_still_fits():
    """Two evaluators take two GPUs of one node; of three nodes two are left for packed trials."""
    nodes = nodes_of([HEAD] + [L40S] * 3, head_memory=64e9)
    seat, resources, said = seated(nodes, 2, gpus_per_actor=1.0)
    assert (seat.gpus, resources.gpus_per_worker) == (1.0, 1.0) and "their own 1 GPU" in said
    assert concurrency(resources, seat.leaves(nodes)) == 2


def test_evaluators_that_would_leave_no_room_share_and_it_is_said():
    seat, resources, said = seated(nodes_of([HEAD, L40S]), 1, gpus_per_actor=1.0)
    assert seat.gpus == 0.05 and resources.gpus_per_worker == 0.95
    assert said == "evaluators share the training GPUs: 1 evaluator with 1 GPU each would leave no room for a trial"


def test_evaluators_of_another_type_take_nothing_from_the_trials():
    nodes = nodes_of([HEAD, L40S, L4, L4])
    seat, resources, _ = seated(nodes, 2, gpus_per_actor=1.0, accelerator="L4")
    assert (seat.gpus, seat.accelerator_type, resources.gpus_per_worker) == (1.0, "L4", 1.0)
    assert concurrency(resources, seat.leaves(nodes)) == 1
    with pytest.raises(InputError, match="3 evaluators with 1 GPU each need more than the cluster can have"):
        seated(nodes, 3, gpus_per_actor=1.0, accelerator="L4")


def test_without_gpus_evaluators_stay_off_the_nodes_that_train():
    assert seated(nodes_of([HEAD, L40S]), 1, gpus_per_actor=0.0)[0].options["resources"] == {HEAD_NODE: 0.001}
    seat, resources, said = seated(Nodes((NodeKind(2, 0),), local=True), 3, "tiny")
    assert (seat.options, said) == ({"num_gpus": 0.0, "resources": {}}, "") and resources.gpus_per_worker == 1.0
