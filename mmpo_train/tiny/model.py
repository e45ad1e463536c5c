"""The tokenizer of `tiny`, and its model as it is before instruction tuning: random weights.

Torch and transformers are imported only where a model is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from mmpo_train.tiny.recipe import CHAT_TEMPLATE, END, PAD, RECIPE, START
from mmpo_train.tiny.rows import instruction_examples

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

# So that ordinary English costs words, not letters.
COMMON_ENGLISH = Path(__file__).with_name("common_english.txt")


def build_untrained(folder: Path) -> None:
    """The tokenizer and the model as it is before instruction tuning: random weights. Random state is left alone."""
    import torch

    tokenizer = train_tokenizer(instruction_examples())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RECIPE.seed)
        new_model(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def train_tokenizer(demonstrations: Iterable[dict[str, str]]) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with a chat template; any text can be encoded and comes back unchanged."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    # A newline is a token of its own: no merge can run across the template's "assistant\n" into a completion.
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(r"\n"), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=RECIPE.vocabulary_tokens,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_tokenizer_corpus(demonstrations), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        chat_template=CHAT_TEMPLATE,
        model_max_length=RECIPE.max_positions,
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """A Llama of about a million random parameters, in fp32."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=RECIPE.width,
        num_hidden_layers=RECIPE.layers,
        num_attention_heads=RECIPE.heads,
        intermediate_size=RECIPE.mlp_width,
        max_position_embeddings=RECIPE.max_positions,
        tie_word_embeddings=True,
        initializer_range=RECIPE.initializer_range,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def _tokenizer_corpus(demonstrations: Iterable[dict[str, str]]) -> Iterator[str]:
    """The demonstrations, so that the world's words are tokens, and ordinary English often enough to be merged too."""
    for row in demonstrations:
        yield f"user\n{row['prompt']}"
        yield f"assistant\n{row['completion']}"
    yield from [" " + COMMON_ENGLISH.read_text(encoding="utf-8").replace("\n", " ")] * 200
