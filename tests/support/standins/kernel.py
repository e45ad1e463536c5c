"""A stand-in for CUDA's attention kernel: it computes what torch documents, and takes half precision alone."""

from typing import Any

import torch

from mmpo_train.model import attention


def by_sequence(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window=None):
    """What varlen_attn computes, one sequence at a time: (T, H, D) in and out, the last query at the last key."""
    out = []
    for first, last, begin, end in zip(cu_seq_q, cu_seq_q[1:], cu_seq_k, cu_seq_k[1:]):
        queries, keys, values = query[first:last], key[begin:end], value[begin:end]
        assert len(queries) <= max_q and len(keys) <= max_k
        groups = queries.shape[1] // keys.shape[1]
        scores = torch.einsum("qhd,khd->hqk", queries, keys.repeat_interleave(groups, 1)) * scale
        distance = torch.arange(len(queries))[:, None] + len(keys) - len(queries) - torch.arange(len(keys))
        seen = (distance >= 0) & (distance <= (len(keys) if window is None else window))
        weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
        out.append(torch.einsum("hqk,khd->qhd", weights, values.repeat_interleave(groups, 1)))
    return torch.cat(out)


def windowed(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """As in torch 2.13."""
    assert window_size[1] == 0 and (enable_gqa or query.shape[1] == key.shape[1])
    left = None if window_size[0] == -1 else window_size[0]
    return by_sequence(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, scale=scale, window=left)


def stand_in() -> list[int]:
    """Give the kernel's place, in this process, to one that refuses fp32; returns where it notes each call's tokens."""
    calls: list[int] = []

    def half_alone(query: Any, key: Any, value: Any, *rest: Any, **named: Any) -> Any:
        assert {query.dtype, key.dtype, value.dtype} == {torch.bfloat16}, "the kernel takes half precision alone"
        assert rest[0].dtype == rest[1].dtype == torch.int32
        calls.append(len(query))
        return windowed(query, key, value, *rest, **named)

    takes = frozenset({"window_size", "enable_gqa"})
    attention._varlen_attn = lambda: (half_alone, takes)  # type: ignore[assignment]
    attention._has_kernel = lambda query: True  # type: ignore[assignment]
    return calls


def in_worker(job: dict[str, Any], run: Any) -> Any:
    """For `workers.train_jobs`: each of the job's trials with the stand-in; its result and the kernel's calls."""
    calls = stand_in()
    results = []
    for one in job["trials"]:
        calls.clear()
        results.append(run(one) | {"kernel_calls": len(calls)})
    return results
