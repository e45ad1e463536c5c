"""What fits on nodes: counted node by node, for nodes that are there and for those that an autoscaler may start."""

import pytest

from sweeps.cluster.nodes import HEAD_NODE, NodeKind, Nodes, nodes_of

HEAD = {HEAD_NODE: 1.0, "CPU": 0.0, "memory": 16e9}
L40S = {"CPU": 48.0, "GPU": 4.0, "accelerator_type:L40S": 1.0}
H100 = {"CPU": 192.0, "GPU": 8.0, "accelerator_type:H100": 1.0}


def test_workers_of_a_trial_are_counted_on_one_node():
    """Three GPUs on each of two nodes are six, and hold two workers twice, four workers never."""
    nodes = Nodes((NodeKind(8, 3, alive=2, most=2),))
    assert [nodes.most_at_once(workers, 1, 1) for workers in (1, 2, 3, 4)] == [6, 2, 2, 0]
    assert nodes.largest(1) == 3


def test_workers_need_their_cpus_too():
    nodes = Nodes((NodeKind(2, 4),))
    assert nodes.most_at_once(1, 1, 1) == 2 and nodes.largest(1) == 2
    assert Nodes((NodeKind(3, 0),)).most_at_once(1, 1, 0) == 3


def test_live_nodes_belong_to_the_types_that_an_autoscaler_starts():
    """Ray counts 47 CPUs where the type says 48; spot and on-demand are one kind of node."""
    nodes = nodes_of([HEAD, {**L40S, "CPU": 47.0}], [({"CPU": 0}, 0), (L40S, 4), (L40S, 2), (H100, 1)])
    found = {kind.gpu_types: (kind.alive, kind.most) for kind in nodes.kinds}
    assert found == {("L40S",): (1, 6), ("H100",): (0, 1), (): (1, 1)}
    assert nodes.most_at_once(4, 1, 1) == 6 + 2 and nodes.of_type("L40S").most_at_once(4, 1, 1) == 6
    assert nodes.gpu_types == ["H100", "L40S"] and nodes.total_gpus == 32


def test_a_node_beyond_its_types_number_counts_all_the_same():
    [kind] = nodes_of([L40S, L40S], [(L40S, 1)]).kinds
    assert (kind.alive, kind.most) == (2, 2)


def test_the_number_of_all_nodes_is_a_limit_too():
    """Three nodes in all, of four that hold a trial each and two that hold two: 2 + 2 + 1. Live ones come first."""
    types = [(L40S, 4), (H100, 2)]
    assert nodes_of([], types, most_nodes=3).most_at_once(4, 1, 1) == 5
    assert nodes_of([L40S, L40S], types, most_nodes=2).most_at_once(4, 1, 1) == 2


def test_hosts_that_have_not_joined_are_of_no_known_kind():
    """`ray up` of a list of hosts: three of them, one has joined."""
    nodes = nodes_of([HEAD, {"CPU": 16.0}], [({}, 3)])
    assert nodes.unknown == 2 and nodes.most_at_once(1, 1, 0) == 16
    assert nodes_of([HEAD], [(L40S, 2)]).unknown == 0


def test_taken_gpus_are_those_of_as_few_nodes_as_can_be():
    """Five GPUs of nodes with four: one node is gone, another has three left; the type named is the one taken."""
    nodes = nodes_of([L40S] * 3 + [H100])
    left = nodes.without(5, "L40S")
    assert left.of_type("L40S").most_at_once(4, 1, 1) == 1 and left.of_type("L40S").most_at_once(3, 1, 1) == 2
    assert left.of_type("H100").total_gpus == 8
    assert nodes.without(100).total_gpus == 0


def test_nodes_that_are_not_there_yet_can_be_taken_from():
    left = nodes_of([HEAD], [(L40S, 3)]).without(1)
    assert left.most_at_once(4, 1, 1) == 2 and left.total_gpus == 11


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (NodeKind(48, 4, ("L40S",), 2, 8), "nodes of 4 L40S GPUs (2 alive, at most 8)"),
        (NodeKind(8, 1), "nodes of 1 GPU (1 alive)"),
        (NodeKind(2, 0), "nodes of 2 CPUs (1 alive)"),
    ],
)
def test_nodes_are_described_by_what_they_have(kind, said):
    assert str(kind) == said
