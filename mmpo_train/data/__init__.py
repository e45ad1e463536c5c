"""From files and hub datasets to token tables.

Sources are opened (`sources.py`, `files.py`), their rows parsed (`rows.py`) and collected with an audit
(`preferences.py`), rendered by the chat template (`rendering.py`), split into prompt and completions (`templates.py`)
and stored as tokens (`tokens.py`). The doors are `preferences.load_preferences`, `tokens.tokenise` and, for a single
prompt, `rendering.prompt_ids`.
"""
