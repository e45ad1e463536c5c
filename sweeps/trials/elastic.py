"""Elastic trials: as many workers as one node has room for, and more when there is room for more."""

from __future__ import annotations

import time
from typing import Any

from ray._private.state import available_resources_per_node
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision

_SECONDS_BETWEEN_LOOKS = 1.0


class OneNode(ElasticScalingPolicy):
    """How many workers an elastic trial gets.

    Ray's own policy adds up the nodes, and counts what evaluators hold as free: it would wait for ever for workers that
    do not fit on one node. It also starts a healthy group again as soon as it may be larger, and what came after the
    last state is lost; here that waits until a state has been written.
    """

    def __init__(self, scaling_config: Any) -> None:
        super().__init__(scaling_config)
        self.held: dict[str, int] = {}
        """Node -> present workers there, whose places are free once they are started again."""
        self.told: set[int] = set()
        """Those of them that have said since the last look that a state is written."""

    def make_decision_for_non_running_worker_group(self) -> Any:
        """To begin, where a node has room for enough."""
        self._maybe_send_resource_request()
        possible = self._room()
        if possible >= self.scaling_config.min_workers:
            return self._get_resize_decision(possible)
        time.sleep(_SECONDS_BETWEEN_LOOKS)  # the controller asks again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """To grow, once all workers have told of a state that they can go on from."""
        self._maybe_send_resource_request()
        self.held = {}
        for worker in worker_group_state.workers:
            self.held[worker.metadata.node_id] = self.held.get(worker.metadata.node_id, 0) + 1
        for rank, status in worker_group_status.worker_statuses.items():
            if status.training_report is not None and status.training_report.metrics.get("safe", 0) > 0:
                self.told.add(rank)
        if len(self.told) < worker_group_state.num_workers:
            return NoopDecision()
        self.told = set()
        possible = self._room()
        return self._get_resize_decision(possible) if possible > worker_group_state.num_workers else NoopDecision()

    def _room(self) -> int:
        """Workers, at most as many as wanted, that the node with most room holds, its present ones among them."""
        needs = {name: need for name, need in self.scaling_config._resources_per_worker_not_none.items() if need > 0}
        most = 0
        for node, free in available_resources_per_node().items():
            fit = min(int(free.get(name, 0.0) / need + 1e-6) for name, need in needs.items())
            most = max(most, fit + self.held.get(node, 0))
        return min(most, self.scaling_config.max_workers)

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """The present workers are stopped next: what they hold is free from then on."""
        self.held, self.told = {}, set()
