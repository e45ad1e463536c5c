"""The reason of an error in one line."""


class GaveUp(Exception):
    """A trial makes no progress; the message says why."""


def one_line(error: BaseException | None) -> str:
    """The error's own message, without the layers of Ray around it."""
    while True:
        failures = getattr(error, "worker_failures", None)
        around = ("cause", "_base_exc", "controller_failure", "health_check_failure")
        wrapped = next((inner for name in around if (inner := getattr(error, name, None)) is not None), None)
        inner = next(iter(failures.values())) if failures else wrapped
        if inner is None or inner is error:
            break
        error = inner
    ended = (type(error).__module__, type(error).__name__) == ("ray.exceptions", "OutOfMemoryError")
    if ended or "address the out of memory issue" in str(error):  # Ray's words, also where only the text came through
        return (
            "the node's memory ran out, so that Ray ended a process of the trial: run fewer trials at a time "
            "(--concurrent-trials), smaller passes (--set tokens_per_pass=…), or end other processes"
        )
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = lines[-1][:300] if lines else "no message"
    return said if isinstance(error, GaveUp) else f"{type(error).__name__}: {said}"
