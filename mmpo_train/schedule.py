"""The learning rate of each step."""

import math


def learning_rate_at(step: int, total_steps: int, peak: float, warmup_share: float) -> float:
    """Linear warm-up from 0, then half a cosine down to 0 (Appendix B.1: cosine, warm-up over 10% of all steps).

    `step` counts from 0, so the very first step has rate 0 where there is a warm-up, as in transformers'
    `get_cosine_schedule_with_warmup`, which the paper's runs used. Warm-up steps are rounded up.
    """
    warmup_steps = math.ceil(total_steps * warmup_share)
    if step < warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return peak * max(0.0, 0.5 * (1.0 + math.cos(math.pi * progress)))
