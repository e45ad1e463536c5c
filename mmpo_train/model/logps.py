"""Log-probabilities of completions; the only place where the model runs."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mmpo_train.devices import moved
from mmpo_train.model.attention import Packing
from mmpo_train.model.vocabulary import token_logps

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Pass(NamedTuple):
    """One forward pass over C completions, in R rows of L tokens, padded on the right.

    Without a packing a row is a prompt with one completion; padding comes after all scored tokens, so that causal
    attention needs no mask for it. With a packing there is a single row, which the packing describes.
    """

    input_ids: Tensor
    """(R, L) token ids."""
    places: Tensor
    """(T,) for each scored token the position, counted through all rows, whose output predicts it."""
    targets: Tensor
    """(T,) ids of the scored tokens."""
    completions: Tensor
    """(T,) completion of each scored token, 0 to C - 1."""
    completion_count: int
    """C."""
    prompt_count: int
    position_ids: Tensor | None = None
    """(1, L) in a packed row: positions of a completion continue those of its prompt."""
    packing: Packing | None = None

    def to(self, device: torch.device) -> Pass:
        """The pass on another device."""
        there: dict[str, Any] = {
            name: part.to(device) if isinstance(part, Packing) else moved(part, device)
            for name, part in self._asdict().items()
            if isinstance(part, (Tensor, Packing))
        }
        return self._replace(**there)


Forward = Callable[[Pass], Tensor]
"""Log-probabilities (C,) of a pass's completions."""


class CompletionLogps(nn.Module):
    """A causal language model as a function from a pass to the log-probabilities of its completions."""

    def __init__(self, model: PreTrainedModel, *, one_projection: bool = False) -> None:
        """`one_projection` is `token_logps`'s `whole`, for ZeRO-3."""
        super().__init__()
        self.model = model
        self.one_projection = one_projection
        self.compiled = False

    def recompute_activations(self, wanted: bool) -> None:
        """Recompute activations in the backward pass, keeping only the layers' inputs; or no longer."""
        model: Any = self.model
        if wanted and not model.is_gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        elif not wanted and model.is_gradient_checkpointing:
            model.gradient_checkpointing_disable()

    def compile_layers(self, wanted: bool) -> None:
        """Compile the layers, and what is done to each logit, for passes with gradient; or go back."""
        from mmpo_train.model.policy import compile_layers

        compile_layers(self.model, wanted)
        self.compiled = wanted

    def forward(self, one: Pass, entropies: bool = False) -> Tensor:
        """Summed log-probability of each completion's tokens, shape (C,), fp32, in nats.

        With `entropies` it is the first row of (3, C). The other rows are, for a completion z of T tokens, with
        H_t = H(pi(.|z_<t, x)) over the vocabulary and `stop` without gradient,

            sum_t H_t    and    sum_t stop(H_t) log pi(z_<t|x),

        whose gradients are P2's and P1's in the MMPO paper's Appendix B.2. If z is drawn from pi(.|x), their sum is an
        unbiased estimate of the gradient of the entropy H(pi(.|x)) of all completions of up to T tokens.
        """
        # Dropout and gradient checkpointing belong to training steps: a validation between two of them has neither.
        self.train(torch.is_grad_enabled())
        bare: Any = self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model  # type: ignore[operator]
        packed: dict[str, Any] = {}
        if one.packing is not None:
            # Any mask of four dimensions keeps the library from making one of the row's squared length.
            no_mask = torch.ones(1, 1, 1, 1, dtype=torch.bool, device=one.input_ids.device)
            packed = {"attention_mask": no_mask, "position_ids": one.position_ids, "packing": one.packing}
        compiled = self.compiled and torch.is_grad_enabled()
        # Without gradient as it is written: evaluators run it so too, and a second version takes a minute.
        with torch.compiler.set_stance("force_eager") if self.compiled and not compiled else nullcontext():
            hidden = bare.base_model(input_ids=one.input_ids, use_cache=False, **packed).last_hidden_state
        states = hidden.flatten(0, 1).index_select(0, one.places)
        wanted = {"entropies": entropies, "whole": self.one_projection, "fused": compiled}
        logps, entropy = token_logps(bare, states, one.targets, **wanted)
        if entropy is None:
            return _sum_by_completion(logps, one)
        of_tokens = (logps, entropy, logps * _entropies_to_come(entropy.detach(), one.completions))
        return torch.stack([_sum_by_completion(values, one) for values in of_tokens])


def _sum_by_completion(values: Tensor, one: Pass) -> Tensor:
    """Sums (C,) of the scored tokens' values (T,)."""
    sums = torch.zeros(one.completion_count, dtype=values.dtype, device=values.device)
    return sums.index_add(0, one.completions, values)


def _entropies_to_come(entropies: Tensor, completions: Tensor) -> Tensor:
    """For each scored token the sum of the entropies (T,) after it in its completion, 0 for the last one.

    Token j is in z_<t for every later t, so that sum_t H_t log pi(z_<t|x) = sum_j log pi(z_j|z_<j, x) sum_{t>j} H_t.
    `completions` (T,) is ascending.
    """
    # float64: a difference of sums over the whole pass.
    cumulated = entropies.double().cumsum(0)
    ends = torch.searchsorted(completions, completions, right=True) - 1
    return (cumulated[ends] - cumulated).to(entropies.dtype)
