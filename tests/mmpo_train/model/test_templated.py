"""`--chat-template FILE`: another template for a model, as part of what the model is."""

import json

import pytest

from mmpo_train.errors import InputError
from mmpo_train.model.folders import fingerprint
from mmpo_train.model.policy import load_model, load_tokenizer
from mmpo_train.options import Options, base_config
from mmpo_train.prepare import identify

TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}: {{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)


@pytest.fixture
def source(preference_rows, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in preference_rows))
    return (str(path),)


def test_the_trial_has_the_files_template_and_the_models_weights(model_folder, source, tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text(TEMPLATE)
    given = {"model": str(model_folder), "dataset": source, "storage": str(tmp_path / "runs")}
    words = {"set": ("pairs_per_step=8", "max_prompt_tokens=64", "max_completion_tokens=32")}
    plain = identify(base_config(Options(**given, **words)), tmp_path / "runs")
    config = base_config(Options(**given, **words, chat_template=str(file)))
    other = identify(config, tmp_path / "runs")
    assert load_tokenizer(other.model_folder).chat_template == TEMPLATE
    assert other.config.digest != plain.config.digest
    weights = [dict(load_model(folder).named_parameters()) for folder in (other.model_folder, model_folder)]
    assert all((weights[0][name] == value).all() for name, value in weights[1].items())
    file.write_text(TEMPLATE.replace("assistant: ", "assistant - "))
    again = base_config(Options(**given, **words, chat_template=str(file)))
    assert again.model != config.model
    cache = tmp_path / "sums.json"
    assert fingerprint(other.model_folder, cache) == other.config.model_fingerprint


def test_a_template_that_cannot_be_used_is_refused(model_folder, tmp_path):
    storage = str(tmp_path / "runs")
    with pytest.raises(InputError, match="cannot be read"):
        base_config(Options(model=str(model_folder), storage=storage, chat_template=str(tmp_path / "nowhere.jinja")))
    with pytest.raises(InputError, match="its own template"):
        base_config(Options(storage=storage, chat_template=str(tmp_path / "nowhere.jinja")))
