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
COMMON_ENGLISH = """
the of and to a in is it you that he was for on are with as his they at be this have from or one had by word but not
what all were we when your can said there use an each which she do how their if will up other about out many then
them these so some her would make like him into time has look two more write go see number no way could people my
than first water been call who oil its now find long down day did get come made may part over new sound take only
little work know place year live me back give most very after thing our just name good sentence man think say great
where help through much before line right too mean old any same tell boy follow came want show also around form three
small set put end does another well large must big even such because turn here why ask went men read need land
different home us move try kind hand picture again change off play spell air away animal house point page letter
mother answer found study still learn should world high every near add food between own below country plant last
school father keep tree never start city earth eye light thought head under story saw left few while along might
close something seem next hard open example begin life always those both paper together got group often run important
until children side feet car mile night walk white sea began grow took river four carry state once book hear stop
without second later miss idea enough eat face watch far really almost let above girl sometimes mountain cut young
talk soon list song being leave family music colour question reason person language model data user system
I am glad to help. Please write a short answer. This is not what we want. Here are some of the things you can do.
Could you explain how it works, and why? There is no need to worry about that. They were going to the store when it
started to rain. In the following example, we show that the number of people has increased since last year.
"""


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
    yield from [COMMON_ENGLISH.replace("\n", " ")] * 200
