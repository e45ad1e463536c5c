"""A model with another chat template: `--chat-template FILE`."""

import json
import shutil
from pathlib import Path

from mmpo_train.config import SFT, digest_of
from mmpo_train.errors import InputError, first_line
from mmpo_train.model.folders import fingerprint, model_files, starting_model
from mmpo_train.storage.mirror import ensure

TEMPLATE, SETTINGS = "chat_template.jinja", "tokenizer_config.json"


def with_template(model: str, template: str, storage: Path) -> str:
    """A folder with the model's files, its weights as links, and the template of a file in place of its own.

    The folder is a model like any other: its fingerprint covers the template, and checkpoints have it. Raises
    InputError if the file cannot be read, or the model is `tiny`.
    """
    if model == "tiny":
        raise InputError("--chat-template: tiny comes with its own template; give another --model")
    try:
        text = Path(template).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--chat-template {template} cannot be read: {first_line(error)}") from error
    folder = starting_model(model)
    digest = digest_of([text, fingerprint(folder, storage / "fingerprints.json")])
    target = storage / "models" / f"{Path(model).name}-template-{digest[:8]}"

    def fill(staging: Path) -> None:
        for path in (*model_files(folder), folder / SFT):
            if path.suffix == ".safetensors":
                (staging / path.name).symlink_to(path.resolve())
            elif path.name == SETTINGS:
                settings = {k: v for k, v in json.loads(path.read_text()).items() if k != "chat_template"}
                (staging / SETTINGS).write_text(json.dumps(settings, indent=1))
            elif path.is_file():
                shutil.copyfile(path, staging / path.name)
        (staging / TEMPLATE).write_text(text)

    ensure(target, fill)
    return str(target)
