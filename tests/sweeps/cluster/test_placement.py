"""What a trial asks for on a laptop, a workstation, and clusters with one and with several types of GPU."""

import pytest

from mmpo_train.errors import InputError
from sweeps.cluster.nodes import HEAD_NODE, NodeKind, Nodes, nodes_of
from sweeps.cluster.placement import (
    DRIVER_BYTES,
    WARM_BYTES,
    NoRoom,
    TrialResources,
    assumed,
    concurrency,
    hardware,
    place,
)
from sweeps.plan.options import SweepOptions

HEAD = {HEAD_NODE: 1.0, "CPU": 0.0, "memory": 64e9}
L40S = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
L40 = {"CPU": 64.0, "GPU": 8.0, "accelerator_type:L40": 1.0}
H100 = {"CPU": 192.0, "GPU": 8.0, "accelerator_type:H100": 1.0}
CLUSTER = nodes_of([HEAD, L40S], [(L40S, 8), (H100, 2)], head_memory=64e9)
LAPTOP = Nodes((NodeKind(8, 0),), local=True)


def asked(recipe, nodes, **given):
    return place(SweepOptions(recipe=recipe, **given), nodes)


@pytest.mark.parametrize(
    ("recipe", "workers", "accelerator", "concurrent"),
    [("smollm2-135m", 4, "L40S", 8), ("llama-3.2-1b", 4, "L40S", 8), ("llama-3-8b", 4, "H100", 4), ("tiny", 1, "", 48)],
)
def test_on_a_cluster_a_trial_asks_for_what_its_recipe_says(recipe, workers, accelerator, concurrent):
    """Eight nodes of 4 L40S, of which one is there, and two of 8 H100; 32 + 16 GPUs."""
    found = asked(recipe, CLUSTER)
    assert (found.workers, found.accelerator_type, found.concurrent) == (workers, accelerator, concurrent)
    assert found.use_gpu and not found.note


def test_a_trial_never_asks_for_another_type_because_it_is_free():
    with pytest.raises(NoRoom, match="4 GPUs of type H100 on one node") as refused:
        asked("llama-3-8b", nodes_of([HEAD, L40S, L40S], [(L40S, 8)]))
    assert "this cluster has nodes of 4 L40S GPUs (2 alive, at most 8)" in str(refused.value)
    assert "give --accelerator L40S, or add a node type with 4 H100 to cluster.yaml" in str(refused.value)


def test_too_few_gpus_of_the_type_on_one_node_are_told_with_the_number_that_fits():
    small = nodes_of([{"CPU": 4.0, "GPU": 1.0, "accelerator_type:L40S": 1.0}] * 8)
    with pytest.raises(NoRoom, match="--workers-per-trial 1 or fewer"):
        asked("smollm2-135m", small)
    one = asked("smollm2-135m", small, workers_per_trial=1)
    assert (one.workers, one.concurrent, str(one)) == (1, 8, "1 worker of 1 GPU (L40S)")


def test_an_elastic_trial_takes_what_one_node_has_where_its_least_fits():
    pairs = nodes_of([{"CPU": 8.0, "GPU": 2.0, "accelerator_type:L40S": 1.0}] * 3)
    found = asked("smollm2-135m", pairs, min_workers_per_trial=2)
    assert (found.workers, found.min_workers, found.concurrent) == (2, 2, 3)
    assert found.note == "no node fits 4 workers; each trial uses 2"
    with pytest.raises(NoRoom, match="needs 3 GPUs of type"):
        asked("smollm2-135m", pairs, min_workers_per_trial=3)
    assert asked("tiny", LAPTOP, workers_per_trial=16, min_workers_per_trial=2).workers == 8
    assert asked("smollm2-135m", CLUSTER, min_workers_per_trial=2).workers == 4


def test_the_command_line_overrules_the_recipe():
    found = asked("smollm2-135m", CLUSTER, accelerator="h100", workers_per_trial=8)
    assert (found.accelerator_type, found.workers, found.concurrent) == ("H100", 8, 2)
    assert asked("smollm2-135m", CLUSTER, workers_per_trial=2).accelerator_type == "L40S"


def test_l40_means_l40s_too_and_takes_the_type_with_more_room():
    assert asked("smollm2-135m", nodes_of([L40S, L40S])).accelerator_type == "L40S"
    assert asked("smollm2-135m", nodes_of([L40, L40, L40S])).accelerator_type == "L40"
    with pytest.raises(NoRoom, match="type L40S on one node"):
        asked("smollm2-135m", nodes_of([L40]), accelerator="L40S")


def test_any_takes_what_there_is_and_as_many_as_fit():
    small = nodes_of([HEAD, {"CPU": 32.0, "GPU": 2.0, "accelerator_type:A10G": 1.0}])
    found = asked("llama-3-8b", small, accelerator="any")
    assert (found.workers, found.accelerator_type, found.gpu_types) == (2, "", ("A10G",))
    assert found.note == "recipe llama-3-8b has 4 workers on H100 GPUs; here each trial uses 2 workers"
    cpus = asked("llama-3-8b", nodes_of([HEAD, {"CPU": 3.0}]), accelerator="any")
    assert (cpus.use_gpu, cpus.workers, cpus.concurrent) == (False, 3, 1)


def test_a_single_machine_runs_every_recipe_with_what_it_has():
    assert str(asked("tiny", LAPTOP)) == "1 worker of 1 CPU" and asked("tiny", LAPTOP).concurrent == 8
    workstation = Nodes((NodeKind(32, 2, ("GeForce-RTX-5090",)),), local=True)
    found = asked("llama-3-8b", workstation)
    assert (str(found), found.concurrent) == ("2 workers of 1 GPU (GeForce-RTX-5090)", 1)
    assert found.note.endswith("here each trial uses 2 workers")
    server = Nodes((NodeKind(64, 8, ("A100",)),), local=True)
    assert (asked("smollm2-135m", server).workers, asked("smollm2-135m", server).note) == (4, "")
    assert asked("smollm2-135m", server, workers_per_trial=1).concurrent == 8


def test_what_a_person_asked_a_single_machine_for_is_not_changed():
    with pytest.raises(NoRoom, match="a trial of 9 workers needs 9 CPUs on one node, but this machine has 8"):
        asked("tiny", LAPTOP, workers_per_trial=9)
    with pytest.raises(NoRoom, match="this machine has nodes of 8 CPUs"):
        asked("tiny", LAPTOP, accelerator="H100")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"accelerator": "H1000"}, "did you mean 'H100'"),
        ({"accelerator": "l40z"}, "did you mean 'L40"),
        ({"workers_per_trial": -1}, "--workers-per-trial"),
        ({"concurrent_trials": -1}, "--concurrent-trials"),
        ({"min_workers_per_trial": 2}, "--min-workers-per-trial"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(given, expected):
    with pytest.raises(InputError, match=expected):
        asked("tiny", CLUSTER, **given)


def test_ray_knows_more_types_than_we_have_peaks_for():
    with pytest.raises(NoRoom, match="type AMD-Instinct-MI300X-OAM"):
        asked("tiny", CLUSTER, accelerator="amd-instinct-mi300x-oam")


def test_a_cluster_without_any_worker_says_what_to_do():
    with pytest.raises(NoRoom, match="ray start --address"):
        asked("tiny", nodes_of([HEAD]))


@pytest.mark.parametrize(("share", "on_each"), [(0.5, 2), (0.4, 2), (0.333, 3), (0.25, 4), (1 / 6, 6), (0.01, 16)])
def test_trials_with_a_share_of_a_gpu_fill_each_gpu_and_never_more(share, on_each):
    """Two GPUs and 32 cores: a hundredth of a GPU has no core of its own any more."""
    found = asked("smollm2-135m", Nodes((NodeKind(32, 2, ("H100",)),), local=True), gpus_per_worker=share)
    assert (found.workers, found.concurrent, found.note) == (1, 2 * on_each, "")
    assert found.job()["gpus_per_worker"] * on_each <= 1 and found.job()["gpu_share"] == share
    assert str(hardware(found)) == f"{share:g} x H100" and str(found) == f"1 worker of {share:g} GPU (H100)"


def test_a_share_that_cannot_be_given_is_refused_and_one_of_no_gpu_is_said_to_do_nothing():
    for share in (0, -1, 1.5, 0.001):
        with pytest.raises(InputError, match="--gpus-per-worker must be from 0.01 to 1"):
            asked("tiny", CLUSTER, gpus_per_worker=share)
    with pytest.raises(InputError, match="give --workers-per-trial 1"):
        asked("smollm2-135m", CLUSTER, gpus_per_worker=0.5, workers_per_trial=2)
    on_cpus = asked("tiny", LAPTOP, gpus_per_worker=0.25)
    assert on_cpus.note == "without GPUs --gpus-per-worker 0.25 has no effect"
    assert (on_cpus.concurrent, on_cpus.accelerators) == (8, 1)
    elsewhere = assumed(SweepOptions(recipe="smollm2-135m", gpus_per_worker=0.25))
    assert (elsewhere.workers, str(hardware(elsewhere))) == (1, "0.25 x L40S")


def test_the_heads_memory_limits_drivers_and_not_trials_of_one_machine():
    many = TrialResources(1, True, 1, 1)
    nodes = nodes_of([HEAD], [(L40S, 1_000)], head_memory=WARM_BYTES + 10.5 * DRIVER_BYTES)
    assert concurrency(many, nodes) == 10 and concurrency(many, nodes, wanted=3) == 3
    note = asked("tiny", nodes).note
    assert (
        note == "the head has memory for 10 trials at the same time"
        and not asked("tiny", nodes, concurrent_trials=10).note
    )
    assert concurrency(many, nodes_of([HEAD])) == 1  # all nodes are lost: the next one has work at once


def test_a_cluster_that_does_not_answer_is_taken_to_have_what_is_asked_for():
    found = assumed(SweepOptions(recipe="smollm2-135m", concurrent_trials=3))
    assert (found.workers, found.gpu_types, found.concurrent, found.use_gpu) == (4, ("L40S",), 3, True)
    assert "does not answer" in found.note


def test_gpus_that_are_numbers_only_train_on_cpus(monkeypatch):
    resources = asked("smollm2-135m", CLUSTER)
    assert (resources.precision, resources.job()["backend"]) == ("bf16", "nccl")
    monkeypatch.setenv("MMPO_LOGICAL_GPUS", "1")
    assert (resources.precision, resources.job()["backend"]) == ("fp32", "gloo")
