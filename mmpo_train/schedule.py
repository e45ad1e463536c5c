"""The learning rate of each step."""

import math


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_share: float) -> float:
    """Learning rate of a step: linear warm-up from 0, then half a cosine down to 0 (Appendix B.1).

    `step` counts from 0. With a warm-up the first step therefore has rate 0, as in transformers'
    `get_cosine_schedule_with_warmup`, which the paper's runs used. The number of warm-up steps is rounded up.
    """
    warmup_steps = math.ceil(total_steps * warmup_share)
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
