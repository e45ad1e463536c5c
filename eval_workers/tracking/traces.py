"""Judged pairs as traces, which MLflow's pages show one by one: question, both answers, verdict, tokens, cost."""

from __future__ import annotations

import hashlib
import json
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval_workers.judging.pairs import FILE_NAME, read_pairs
from mmpo_train.redaction import masked_values

if TYPE_CHECKING:
    from mlflow.entities import Span

    from eval_workers.tracking.store import Store

MOST = 100
"""Pairs of a judge and a checkpoint that become traces. The file has all of them."""


def log_pairs(store: Store, run_id: str, folder: Path, name: str) -> None:
    """Write the judged pairs below a folder as traces of a run. A repetition changes nothing. `name` is shown with
    each, such as `evaluations/epoch-0002/alpaca`."""
    files = sorted(folder.rglob(FILE_NAME))
    spans = []
    for file in files:
        of_judges = groupby(read_pairs(file.parent), lambda row: row["judge"])
        called = f"{name}/{file.parent.relative_to(folder)}".removesuffix("/.")
        rows = [masked_values(row) for _, own in of_judges for row in list(own)[:MOST]]
        spans += [_span(run_id, row, called, file.stat().st_mtime_ns) for row in rows]
    if not spans:
        return
    from mlflow.tracing.client import TracingClient

    TracingClient(store.address.uri).log_spans(store.client.get_run(run_id).info.experiment_id, spans)
    traces = [span.trace_id for span in spans]
    for start in range(0, len(traces), MOST):  # MLflow links at most 100 at a time
        store.client.link_traces_to_run(traces[start : start + MOST], run_id)


def _span(run_id: str, row: dict[str, Any], name: str, time_ns: int) -> Span:
    """One pair. Its ids follow from what it is, so that it is written once."""
    from mlflow.entities import Span

    identity = [run_id, name, *(row[part] for part in ("judge", "question", "answer", "other_answer"))]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()
    used, answered, preference = row["prompt_tokens"], row["completion_tokens"], row["preference"]
    attributes: dict[str, Any] = {
        "mlflow.traceRequestId": f"tr-{digest[:32]}",
        "mlflow.spanType": "LLM",
        "mlflow.llm.model": row["judge"],
        "mlflow.spanInputs": {name: row[name] for name in ("question", "answer", "other_answer")},
        "mlflow.spanOutputs": {"verdict": _said(preference), "preference": preference, "judge": row["replies"]},
        "mlflow.traceTag.judge": row["judge"],
        "mlflow.traceTag.verdict": _said(preference),
        "mlflow.traceTag.evaluation": name,
    }
    if used + answered:
        total = {"input_tokens": used, "output_tokens": answered, "total_tokens": used + answered}
        attributes["mlflow.chat.tokenUsage"] = total
        if row["usd"] is not None:
            attributes["mlflow.llm.cost"] = {"total_cost": row["usd"]}
    return Span.from_dict(
        {
            "name": name,
            "trace_id": f"tr-{digest[:32]}",
            "span_id": digest[32:48],
            "parent_span_id": None,
            "start_time_unix_nano": time_ns,
            "end_time_unix_nano": time_ns,
            "status": {"code": "STATUS_CODE_OK"},
            "attributes": {name: json.dumps(value) for name, value in attributes.items()},
        }
    )


def _said(preference: float | None) -> str:
    if preference is None:
        return "no verdict"
    return "tie" if preference == 0.5 else "answer" if preference > 0.5 else "other answer"
