"""Elastic trials: they start with as many workers as fit on one node, and grow when more fit."""

import time
from typing import Any

from ray._private.state import available_resources_per_node
from ray.train.v2._internal.execution.scaling_policy import ElasticScalingPolicy, NoopDecision

_SECONDS_BETWEEN_LOOKS = 1.0


class OneNode(ElasticScalingPolicy):
    """Decides on the number of workers of an elastic trial.

    Ray's own policy adds up the free resources of all nodes, evaluators' included, and would wait forever for workers
    that do not fit on one node. It also restarts a healthy group as soon as it can be larger, and so loses all work
    since the last state; this one waits until a state has been written.
    """

    def __init__(self, scaling_config: Any) -> None:
        super().__init__(scaling_config)
        self.held: dict[str, int] = {}
        """Node -> its present workers, whose places are free when the group is restarted."""
        self.told: set[int] = set()
        """Workers that have reported a saved state since the last check."""

    def make_decision_for_non_running_worker_group(self) -> Any:
        """Start the trial if a node has room for enough workers."""
        self._maybe_send_resource_request()
        possible = self._room()
        if possible >= self.scaling_config.min_workers:
            return self._get_resize_decision(possible)
        time.sleep(_SECONDS_BETWEEN_LOOKS)  # the controller asks again at once
        return NoopDecision()

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        """Let the trial grow, once all workers have reported a state from which they can continue."""
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
        """Workers, at most the wanted number, that fit on the node with most room, its present ones included."""
        needs = {name: need for name, need in self.scaling_config._resources_per_worker_not_none.items() if need > 0}
        most = 0
        for node, free in available_resources_per_node().items():
            fit = min(int(free.get(name, 0.0) / need + 1e-6) for name, need in needs.items())
            most = max(most, fit + self.held.get(node, 0))
        return min(most, self.scaling_config.max_workers)

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Forget the present workers, which are stopped next."""
        self.held, self.told = {}, set()
