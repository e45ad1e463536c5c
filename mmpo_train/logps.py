"""Log-probabilities of completions: the one place where the model is run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel

# Rows of the vocabulary projection that are alive at a time: 512 x 128k x 4 bytes is a quarter of a GB.
_POSITIONS_PER_CHUNK = 512


class Pass(NamedTuple):
    """One forward pass over C completions, in R rows of L tokens, padded on the right.

    A row is either a prompt with one completion, or a prompt with several behind it (then `segments` is given).
    Padding stands after all that is scored, so with causal attention no mask is needed for it.
    """

    input_ids: Tensor
    """(R, L) token ids."""
    rows: Tensor
    """(T,) the row of each scored token."""
    positions: Tensor
    """(T,) the place in the row whose output predicts it."""
    targets: Tensor
    """(T,) its id."""
    completions: Tensor
    """(T,) the completion it belongs to, 0 to C - 1."""
    completion_count: int
    """C."""
    segments: Tensor | None = None
    """(R, L) 0 for a prompt's token, k for one of the row's k-th completion, -1 for padding."""
    position_ids: Tensor | None = None
    """(R, L) each completion goes on counting where its prompt ends."""

    def to(self, device: torch.device) -> Pass:
        """The same on another device."""
        parts = self._asdict().items()
        moved: dict[str, Any] = {name: part.to(device) for name, part in parts if isinstance(part, Tensor)}
        return self._replace(**moved)


class CompletionLogps(nn.Module):
    """A causal language model as a function from a pass to the log-probabilities of its completions."""

    def __init__(self, model: PreTrainedModel, *, one_projection: bool = False) -> None:
        """`one_projection` calls the projection once a pass, however many positions there are.

        ZeRO-3 needs it: its workers must call the same modules equally often.
        """
        super().__init__()
        self.model = model
        self.positions_per_chunk = None if one_projection else _POSITIONS_PER_CHUNK

    def forward(self, one: Pass) -> Tensor:
        """Summed log-probability of each completion's tokens, shape (C,), fp32, in nats.

        The vocabulary projection is computed for scored positions only, in chunks, and again in the backward pass.
        """
        # Dropout and gradient checkpointing belong to training steps: a validation between two of them has neither.
        self.train(torch.is_grad_enabled())
        bare: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[operator]
        shared = {}
        if one.segments is not None:
            shared = {"attention_mask": prompt_and_own_mask(one.segments), "position_ids": one.position_ids}
        hidden = bare.base_model(input_ids=one.input_ids, use_cache=False, **shared).last_hidden_state
        scored = hidden[one.rows, one.positions]
        size = self.positions_per_chunk or len(scored)
        pieces = zip(scored.split(size), one.targets.split(size), strict=True)
        chunks = [self._chunk(bare, states, targets) for states, targets in pieces]
        sums = torch.zeros(one.completion_count, dtype=torch.float32, device=scored.device)
        return sums.index_add(0, one.completions, torch.cat(chunks))

    @staticmethod
    def _chunk(bare: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            return checkpoint(_token_logps, bare, states, targets, use_reentrant=False)
        return _token_logps(bare, states, targets)


def prompt_and_own_mask(segments: Tensor) -> Tensor:
    """(R, 1, L, L), True where a token may look: at its prompt and at its own completion, never ahead.

    A 4D mask reaches scaled_dot_product_attention as it is. Padding looks at the prompt, so that no row is empty.
    """
    own = segments.unsqueeze(2) == segments.unsqueeze(1)
    return ((segments.unsqueeze(1) == 0) | own).tril().unsqueeze(1)


def _token_logps(bare: PreTrainedModel, states: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each target, (T,), fp32: log-sum-exp in bf16 would lose the differences that are compared."""
    logits = bare.get_output_embeddings()(states).float()
    config = bare.config
    if getattr(config, "logit_scale", None):  # Cohere
        logits = logits * config.logit_scale
    if getattr(config, "logits_scaling", None):  # Granite
        logits = logits / config.logits_scaling
    if getattr(config, "final_logit_softcapping", None):  # Gemma
        logits = config.final_logit_softcapping * torch.tanh(logits / config.final_logit_softcapping)
    return -F.cross_entropy(logits, targets, reduction="none")
