"""A Hugging Face model in this process as the judge: its first token, from one forward pass."""

import threading
from pathlib import Path
from typing import Any

from eval_workers.judging.clients import Ask, Prompt, Reply
from eval_workers.judging.costs import Purse
from eval_workers.judging.label_prompts import FIRST, SECOND
from eval_workers.judging.verdicts import JudgeFailed
from mmpo_train.data.rendering import Unusable, prompt_ids
from mmpo_train.errors import InputError


def open_local(folder: Path, purse: Purse) -> Ask:
    """A function from a conversation to a reply with the log-probabilities of the two labels as first token.

    The model is loaded in fp32, on a GPU if there is one. The function raises JudgeFailed for a prompt longer than the
    model's positions. Raises InputError for a folder that cannot be used.
    """
    import torch

    from mmpo_train.devices import own_device
    from mmpo_train.model.policy import load_model, load_tokenizer

    tokenizer: Any = load_tokenizer(folder)
    labels = {label: tokenizer.encode(label, add_special_tokens=False) for label in (FIRST, SECOND)}
    if any(len(ids) != 1 for ids in labels.values()) or labels[FIRST] == labels[SECOND]:
        raise InputError(
            f"the tokenizer in {folder} has no single token for each of {FIRST!r} and {SECOND!r}, so its model cannot "
            "say which output is better; give another judge"
        )
    device = own_device()
    model: Any = load_model(folder, device=device)
    model.eval()
    positions = getattr(model.config, "max_position_embeddings", None)
    one_at_a_time = threading.Lock()

    def ask(prompt: Prompt) -> Reply:
        messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)
        try:
            ids = prompt_ids(tokenizer, messages)
        except Unusable:
            # Some templates refuse a system turn: its words open the user's.
            whole = "\n\n".join(message["content"] for message in messages)
            ids = prompt_ids(tokenizer, [{"role": "user", "content": whole}])
        if positions is not None and len(ids) > positions:
            raise JudgeFailed("prompt too long", f"{len(ids)} tokens, but the model in {folder} takes {positions}")
        with one_at_a_time, purse.request(0, 0) as bill, torch.inference_mode():
            logits = model(torch.tensor([ids], device=device), use_cache=False).logits[0, -1]
            logps = torch.log_softmax(logits.double(), dim=-1)
            bill.settle(len(ids), 1)
        first_token = {label: logps[number].item() for label, [number] in labels.items()}
        likelier = max(first_token, key=first_token.__getitem__)
        return Reply(
            text=likelier, ending="finished", prompt_tokens=len(ids), completion_tokens=1, first_token=first_token
        )

    return ask
