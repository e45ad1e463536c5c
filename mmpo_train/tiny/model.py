"""`tiny`: an instruction-tuned model of a million parameters and its preference data, made on the spot.

Everything is generated from seeds: no network, no downloaded file. The model learns a small world of questions
(`tiny_tasks`) from demonstrations as uneven as people's, many of them wrong or sloppy, so that there is something
left to learn from preferences. Torch and transformers are imported only where a model is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

from mmpo_train.errors import InputError
from mmpo_train.tiny.tasks import Question, draw_question, judge, write_answer, wrong_answer

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from mmpo_train.tiny.tuning import TokenizedConversation

__all__ = [
    "CHAT_TEMPLATE",
    "RECIPE",
    "Recipe",
    "build",
    "build_untrained",
    "fingerprint",
    "instruction_examples",
    "judge",
    "preference_examples",
    "ranked_examples",
]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything `tiny` is made from."""

    version: int = 1
    """Raised when the questions, the ways of answering, the tokenizer's corpus or the training change."""
    seed: int = 20
    """Of the data, the initial weights and the order of instruction tuning."""

    train_prompts: int = 1024
    """Prompts with a preference pair to train on."""
    validation_prompts: int = 512
    """Prompts, none of them a train prompt, with a preference pair to validate on."""
    demonstrations: int = 16_384
    """Conversations the model is instruction-tuned on; none has a validation prompt."""

    vocabulary_tokens: int = 1536
    """All bytes, the special tokens, and merges."""
    width: int = 160
    layers: int = 3
    heads: int = 5
    mlp_width: int = 384
    max_positions: int = 4096
    initializer_range: float = 0.06
    """Standard deviation of initial weights: 0.02, the habit of wider models, learns much slower at this width."""

    sft_learning_rate: float = 1e-3
    """Peak rate of instruction tuning from scratch."""
    sft_conversations_per_step: int = 16
    """Small steps, many of them: what a model of this size learns fastest from."""


RECIPE = Recipe()

# (is the answer wrong?, how is it put?): share. Terse answers are common in the demonstrations, as with people.
DEMONSTRATED = {
    (False, "good"): 0.27,
    (False, "bare"): 0.18,
    (False, "opened"): 0.05,
    (False, "trailing"): 0.05,
    (False, "doubled"): 0.03,
    (True, "good"): 0.19,
    (True, "bare"): 0.14,
    (True, "opened"): 0.04,
    (True, "trailing"): 0.03,
    (True, "doubled"): 0.02,
}
# Shares chosen so that rejected completions are as long as chosen ones on average.
REJECTED = {
    (True, "good"): 0.44,
    (True, "bare"): 0.04,
    (True, "opened"): 0.06,
    (True, "trailing"): 0.06,
    (False, "bare"): 0.24,
    (False, "opened"): 0.05,
    (False, "trailing"): 0.06,
    (False, "doubled"): 0.05,
}
# Answers of falling quality: (is it wrong?, how may it be put?). Neighbours may be equally good, that is, tie.
RANKED = (
    (False, ("good",)),
    (False, ("opened", "trailing")),
    (False, ("bare", "hurried")),
    (False, ("bare", "hurried", "mumbled")),
    (True, ("good",)),
    (True, ("good", "opened", "trailing")),
    (True, ("bare", "hurried", "mumbled")),
)
# Of the last five, how many are there?: share.
NEGATIVES_BELOW_SECOND = {5: 0.7, 4: 0.2, 3: 0.1}

PAD, START, END = "<|pad|>", "<|im_start|>", "<|im_end|>"

# Ends exactly at the last turn's END, so that a prompt rendered with the generation prompt is a prefix of the
# whole conversation and the completion has one end-of-sequence token.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

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


def preference_examples(split: str) -> list[dict[str, str]]:
    """Rows {prompt, chosen, rejected} of `split`, 'train' or 'validation'; no prompt is in both.

    Chosen is right and well put. Rejected is wrong, or right but sloppy; on average it is as long.
    """
    rows = []
    for question, random in _distinct_questions(split):
        chosen = write_answer(question, question.solution.answer, "good", random)
        rejected = _answer_from(REJECTED, question, random)
        rows.append({"prompt": question.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def ranked_examples(split: str) -> list[dict[str, Any]]:
    """Rows {prompt, answers: [{answer, rank}, ...]}, best first, with 5 to 7 answers to the prompts of `split`.

    One answer is perfect and of rank 1, one is nearly so and of rank 2 (what Nectar's users leave out). Answers
    that the judge holds equal share a rank, and the next rank follows without a gap.
    """
    rows = []
    for question, random in _distinct_questions(split):
        quality = {answer: judge(question.prompt, answer) for answer in _graded_answers(question, random)}
        levels = sorted(set(quality.values()), reverse=True)
        best_first = sorted(quality, key=quality.__getitem__, reverse=True)
        ranked = [{"answer": answer, "rank": levels.index(quality[answer]) + 1} for answer in best_first]
        rows.append({"prompt": question.prompt, "answers": ranked})
    return rows


def _graded_answers(question: Question, random: Random) -> list[str]:
    [count] = random.choices(list(NEGATIVES_BELOW_SECOND), list(NEGATIVES_BELOW_SECOND.values()))
    answers: dict[str, None] = {}
    for place in (0, 1, *sorted(random.sample(range(2, len(RANKED)), count))):
        wrong, styles = RANKED[place]
        size = len(answers)
        while len(answers) == size:  # until it is another answer than those before
            answer = wrong_answer(question, random) if wrong else question.solution.answer
            answers[write_answer(question, answer, random.choice(styles), random)] = None
    return list(answers)


def instruction_examples() -> list[dict[str, str]]:
    """Rows {prompt, completion}: the uneven demonstrations the model is tuned on, none with a validation prompt."""
    rows = []
    random = Random(f"{RECIPE.seed} demonstrations")
    questions = _questions("train", random)
    for _ in range(RECIPE.demonstrations):
        question = next(questions)
        completion = _answer_from(DEMONSTRATED, question, random)
        rows.append({"prompt": question.prompt, "completion": completion})
    return rows


def _answer_from(shares: dict[tuple[bool, str], float], question: Question, random: Random) -> str:
    [(wrong, style)] = random.choices(list(shares), list(shares.values()))
    answer = wrong_answer(question, random) if wrong else question.solution.answer
    return write_answer(question, answer, style, random)


def fingerprint() -> str:
    """16 hex digits that name the recipe: what is built from equal recipes is interchangeable.

    Weights do not count: their last bits may differ between machines.
    """
    recipe = [asdict(RECIPE), list(DEMONSTRATED.items()), list(REJECTED.items()), CHAT_TEMPLATE]
    return hashlib.sha256(json.dumps(recipe, sort_keys=True).encode()).hexdigest()[:16]


def build(folder: Path, progress: Callable[[str, float], None] | None = None) -> None:
    """The tokenizer and the instruction-tuned model in `folder`, as `save_pretrained` writes them.

    `progress` hears what is being done and which share of it is done. The caller's random state is left alone.
    """
    import torch

    from mmpo_train.tiny.tuning import SFTConfig, instruction_tune

    say = progress or (lambda stage, share: None)
    demonstrations = instruction_examples()
    tokenizer = train_tokenizer(demonstrations)
    say("tokenizer", 1.0)
    conversations = tokenize_demonstrations(tokenizer, demonstrations)
    config = SFTConfig(
        learning_rate=RECIPE.sft_learning_rate,
        conversations_per_step=RECIPE.sft_conversations_per_step,
        seed=RECIPE.seed,
    )
    threads = torch.get_num_threads()
    # Matrices this small leave threads waiting for each other: on busy cores two took four times as long as one.
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RECIPE.seed)
            model = new_model(tokenizer)
        instruction_tune(model, conversations, config, lambda share, loss: say("instruction tuning", share))
    finally:
        torch.set_num_threads(threads)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


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


def tokenize_demonstrations(
    tokenizer: PreTrainedTokenizerFast, demonstrations: Sequence[dict[str, str]]
) -> list[TokenizedConversation]:
    """One rendering of each whole conversation, split where its prompt with the generation prompt ends."""
    from mmpo_train.tiny.tuning import TokenizedConversation

    turns = [
        [{"role": "user", "content": row["prompt"]}, {"role": "assistant", "content": row["completion"]}]
        for row in demonstrations
    ]
    wholes = tokenizer.apply_chat_template(turns, return_dict=False)
    prompts = tokenizer.apply_chat_template(
        [[user] for user, _ in turns], add_generation_prompt=True, return_dict=False
    )
    conversations = []
    for whole, prompt in zip(wholes, prompts, strict=True):
        assert whole[: len(prompt)] == prompt
        is_completion = [position >= len(prompt) for position in range(len(whole))]
        conversations.append(TokenizedConversation(whole, is_completion))
    return conversations


def _tokenizer_corpus(demonstrations: Iterable[dict[str, str]]) -> Iterator[str]:
    """The demonstrations, so that the world's words are tokens, and ordinary English often enough to be merged too."""
    for row in demonstrations:
        yield f"user\n{row['prompt']}"
        yield f"assistant\n{row['completion']}"
    yield from [COMMON_ENGLISH.replace("\n", " ")] * 200


def _questions(split: str, random: Random) -> Iterator[Question]:
    """Endless questions of one split. The prompt's own digest decides its split: one in four is for validation."""
    if split not in ("train", "validation"):
        raise InputError(f"split '{split}' is not 'train' or 'validation'")
    while True:
        question = draw_question(random)
        is_validation = hashlib.sha256(question.prompt.encode()).digest()[0] % 4 == 0
        if is_validation == (split == "validation"):
            yield question


def _distinct_questions(split: str) -> Iterator[tuple[Question, Random]]:
    """The split's questions, each prompt once, each with its own source of randomness for what is said about it."""
    count = RECIPE.train_prompts if split == "train" else RECIPE.validation_prompts
    questions = _questions(split, Random(f"{RECIPE.seed} {split}"))
    seen: set[str] = set()
    while len(seen) < count:
        question = next(questions)
        if question.prompt not in seen:
            seen.add(question.prompt)
            yield question, Random(f"{RECIPE.seed} {question.prompt}")
