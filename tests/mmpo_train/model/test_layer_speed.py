"""The speed of a layer that a forecast begins with."""

from __future__ import annotations

import time

import torch

from mmpo_train.model.layer_speed import layer_flop_per_second


def test_a_layer_of_any_model_is_timed_within_seconds_and_leaves_torch_as_it_was():
    """The shapes of `tiny` and of an 8B model, whose whole layer would take a minute."""
    torch.manual_seed(3)
    expected, threads = torch.rand(1), torch.get_num_threads()
    torch.manual_seed(3)
    started = time.process_time()
    speeds = [
        layer_flop_per_second(*shape, precision, 1)
        for shape in ((1_000_000, 3, 160), (8_030_261_248, 32, 4096))
        for precision in ("fp32", "bf16")
    ]
    assert time.process_time() - started < 12  # a second each; more on an old processor
    assert all(1e8 < speed < 1e13 for speed in speeds)
    assert torch.rand(1) == expected and torch.get_num_threads() == threads


def test_a_repeated_forecast_times_nothing_again():
    first = layer_flop_per_second(1_000_000, 3, 160, "fp32", 1)
    started = time.perf_counter()
    assert layer_flop_per_second(1_000_000, 3, 160, "fp32", 1) == first
    assert time.perf_counter() - started < 0.01
