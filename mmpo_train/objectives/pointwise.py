"""Classification objectives, which score each completion by itself: BCO, KTO, APO, SPPO and NCA.

Policy and reference log-probabilities have shape (B, 2), chosen first, summed over completion tokens, in nats.
Losses have shape (B,), scores (B, 2), detached: s = beta * (policy_logps - ref_logps) throughout. `delta` is a
reference point in the scores' unit (reference_point.py). "Table 5" is that of the MC-PO paper (Chen et al. 2025);
TRL is 1.16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def bco_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float, delta: float) -> tuple[Tensor, Tensor]:
    """BCO loss of each pair as Table 5 prints it, with its scores.

    loss = -log sigmoid(s_w - delta) - log sigmoid(-s_l - delta).

    The publication (`bco_original_loss`) has + delta on the rejected side: it shifts one boundary between both
    classes. As printed delta widens a margin on both sides, so that s_w is pushed above delta and s_l below -delta.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    return -F.logsigmoid(scores[:, 0] - delta) - F.logsigmoid(-scores[:, 1] - delta), scores.detach()


def bco_original_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float, delta: float) -> tuple[Tensor, Tensor]:
    """BCO loss of each pair as Jung et al. 2024 have it, with its scores.

    loss = -log sigmoid(s_w - delta) - log sigmoid(delta - s_l).

    `bco_loss`, Table 5's, has -delta on the rejected side. TRL's `bco_pair` was this loss, delta the running mean of
    all scores; TRL 1.16 has dropped delta, which is this loss (and Table 5's) with delta 0.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    return -F.logsigmoid(scores[:, 0] - delta) - F.logsigmoid(delta - scores[:, 1]), scores.detach()


def kto_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float, delta: float) -> tuple[Tensor, Tensor]:
    """KTO loss of each pair as Table 5 prints it, with its scores.

    loss = -log sigmoid(s_w - delta) - log sigmoid(-s_l - delta), delta >= 0.

    Printed like BCO with another delta. The publication (`kto_original_loss`) has 1 - sigmoid instead of
    -log sigmoid, which saturates on hard examples too, +delta on the rejected side, and a weight for each side.
    """
    return bco_loss(policy_logps, ref_logps, beta, delta)


def kto_original_loss(
    policy_logps: Tensor,
    ref_logps: Tensor,
    beta: float,
    delta: float,
    desirable_weight: float,
    undesirable_weight: float,
) -> tuple[Tensor, Tensor]:
    """KTO loss of each pair as Ethayarajh et al. 2024 have it (Eq. 7 there), with its scores.

    loss = desirable_weight * (1 - sigmoid(s_w - delta)) + undesirable_weight * (1 - sigmoid(delta - s_l)),
    delta = beta * max(0, KL estimate).

    TRL's KTOTrainer computes the same for unpaired completions and averages over completions: half of the mean of
    these losses over pairs. `kto_loss`, Table 5's, has -log sigmoid and another sign of delta.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    # sigmoid(-x), not 1 - sigmoid(x): the difference from 1 is lost where the loss is small.
    desirable = torch.sigmoid(delta - scores[:, 0])
    undesirable = torch.sigmoid(scores[:, 1] - delta)
    return desirable_weight * desirable + undesirable_weight * undesirable, scores.detach()


def apo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """APO loss of each pair as Table 5 prints it, with its scores.

    loss = -log sigmoid(s_w) + log sigmoid(s_l).

    Unbounded below: it falls with s_l for ever, and the rejected completion's gradient sigmoid(-s_l) grows to 1 on the
    way. The publication has sigmoids without logarithms (`apo_zero_loss`, `apo_down_loss`), whose gradient vanishes.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    return -F.logsigmoid(scores[:, 0]) + F.logsigmoid(scores[:, 1]), scores.detach()


def apo_zero_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """APO-zero loss of each pair, with its scores: chosen up, rejected down.

    loss = 1 - sigmoid(s_w) + sigmoid(s_l) (D'Oosterlinck et al. 2024, Eq. 7, without the constant; TRL's `apo_zero`).
    For data better than the model. `apo_loss` is what Table 5 prints.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    return torch.sigmoid(-scores[:, 0]) + torch.sigmoid(scores[:, 1]), scores.detach()


def apo_down_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """APO-down loss of each pair, with its scores: both down, the rejected one more.

    loss = sigmoid(s_w) + 1 - sigmoid(s_w - s_l) (D'Oosterlinck et al. 2024, Eq. 8, without the constant; TRL's
    `apo_down`). For data worse than the model. `apo_loss` is what Table 5 prints.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    return torch.sigmoid(scores[:, 0]) + torch.sigmoid(scores[:, 1] - scores[:, 0]), scores.detach()


def sppo_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """SPPO loss of each pair with certain preferences, with its scores.

    loss = (r_w - 0.5 / beta)² + (r_l + 0.5 / beta)², r = policy_logps - ref_logps, in nats²
    (Table 5; TRL's `sppo_hard`; Wu et al. 2024, Eq. 4.7, with eta = 1 / beta and win probabilities 1 and 0).

    At beta 0.01 an untrained policy starts at 5000 with gradient 100: learning rates of other objectives do not carry
    over.
    """
    log_ratios = policy_logps - ref_logps
    losses = (log_ratios[:, 0] - 0.5 / beta) ** 2 + (log_ratios[:, 1] + 0.5 / beta) ** 2
    return losses, beta * log_ratios.detach()


def nca_loss(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """NCA loss of each pair, with its scores.

    loss = -log sigmoid(s_w) - 0.5 * log sigmoid(-s_w) - 0.5 * log sigmoid(-s_l)
    (Chen et al. 2024a for a pair; Table 5; TRL's `nca_pair`). The two terms of s_w are least at s_w = log 2,
    where the chosen completion stops rising.
    """
    scores = _scores(policy_logps, ref_logps, beta)
    chosen, rejected = scores[:, 0], scores[:, 1]
    losses = -F.logsigmoid(chosen) - 0.5 * F.logsigmoid(-chosen) - 0.5 * F.logsigmoid(-rejected)
    return losses, scores.detach()


def _scores(policy_logps: Tensor, ref_logps: Tensor, beta: float) -> Tensor:
    return beta * (policy_logps - ref_logps)
