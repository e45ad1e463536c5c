"""The page of `benchmarks/gpu.py`: its figures as tables in Markdown."""

from typing import Any


def page(results: dict[str, dict[str, Any]]) -> str:
    """All parts, in their order; those without figures with their state alone."""
    lines = ["# One GPU, measured", ""]
    machines = {one.get("figures", {}).get("machine") for one in results.values()} - {None}
    lines += [*(f"On {machine}." for machine in sorted(machines)), ""] if machines else []
    lines += ["| part | state | seconds |", "| --- | --- | --- |"]
    lines += [f"| {name} | {one['state']} | {one.get('seconds', '')} |" for name, one in results.items()]
    steps = {name: one["figures"] for name, one in results.items() if "ways" in one.get("figures", {})}
    if steps:
        lines += ["", "## Steps", ""]
        lines += ["| shape | way | s per step | tokens/s | MFU | peak GB | ours is faster by |", "| --- " * 7 + "|"]
        for name, figures in steps.items():
            for way, row in figures["ways"].items():
                lines.append(
                    f"| {name.removeprefix('step-')} | {way} | {row['seconds_per_step']:.3f} | "
                    f"{row['tokens_per_second']:,.0f} | {row['mfu']:.1%} | {row['peak_gb']:.2f} | {row['ratio']:.2f}x |"
                )
        for name, figures in steps.items():
            facts = figures["facts"]
            lines.append(
                f"\n{name.removeprefix('step-')}: passes of at most {facts['tokens_per_pass']:,.0f} tokens, at most "
                f"{facts['host_peak_gb']:.1f} GB on the host, losses {figures['largest_loss_difference']:.1e} apart, "
                f"peak {figures['peak_flop']:.3g} FLOP/s ({figures['peak_from']})"
            )
    for name, one in results.items():
        figures = one.get("figures", {})
        if figures and name not in steps:
            lines += ["", f"## {name}", ""]
            lines += [f"- {key}: {_shown(value)}" for key, value in figures.items() if key != "rows"]
            rows = figures.get("rows", [])
            if rows:
                lines += ["", f"| {' | '.join(rows[0])} |", "| --- " * len(rows[0]) + "|"]
                lines += [f"| {' | '.join(_shown(value) for value in row.values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
