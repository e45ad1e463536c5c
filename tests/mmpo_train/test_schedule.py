"""The learning rate of each step, against transformers' scheduler."""

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup

from mmpo_train.schedule import learning_rate_at


@pytest.mark.parametrize("total_steps", [1, 2, 7, 10, 64, 575, 1150])
@pytest.mark.parametrize("warmup_share", [0.0, 0.1, 0.25])
def test_every_step_has_the_rate_of_transformers_cosine_with_warmup(total_steps, warmup_share):
    """Warm-up steps rounded up, as transformers' Trainer does with `warmup_ratio`."""
    warmup_steps = -int(-total_steps * warmup_share // 1)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=5e-4)
    scheduler = get_cosine_schedule_with_warmup(optimizer, warmup_steps, total_steps)
    for step in range(total_steps):
        expected = optimizer.param_groups[0]["lr"]
        assert learning_rate_at(step, total_steps, 5e-4, warmup_share) == pytest.approx(expected, rel=1e-12, abs=1e-18)
        optimizer.step()
        scheduler.step()


def test_the_papers_epoch_worked_by_hand():
    """Two epochs of 575 steps: 1150, of which 115 are warm-up; the cosine is half way down at 115 + 1035 / 2."""
    rates = [learning_rate_at(step, 1150, 1.0, 0.1) for step in range(1150)]
    assert rates[0] == 0.0 and rates[1] == pytest.approx(1 / 115) and rates[115] == max(rates) == 1.0
    assert (rates[632] + rates[633]) / 2 == pytest.approx(0.5)
    assert 0 < rates[-1] < 1e-5


def test_rates_rise_then_fall():
    rates = [learning_rate_at(step, 50, 1.0, 0.1) for step in range(50)]
    assert rates[:6] == sorted(rates[:6]) and rates[5:] == sorted(rates[5:], reverse=True)
