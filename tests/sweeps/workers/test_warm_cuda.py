"""A warm process on a machine with a GPU: what it imports leaves CUDA alone, which a fork could not use then."""

import sys

import pytest

from tests.support.standins.missing import run_python

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="warm processes are Linux's")]

# A torch built for CUDA on a machine where NVML counts one device; each call that would begin CUDA is written down.
IMPORTS = """
import os, tempfile, traceback
from pathlib import Path
os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
os.environ.pop("DS_ACCELERATOR", None)
import torch, torch._dynamo
calls = []
def begins(*arguments, **named):
    calls.append("".join(traceback.format_stack(limit=8)))
    raise RuntimeError("CUDA has begun")
torch.cuda._is_compiled = torch.backends.cuda.is_built = lambda: True
torch.cuda._device_count_nvml = lambda: 1
torch.cuda._lazy_init = torch._C._cuda_init = torch._C._cuda_getDeviceCount = begins
from sweeps.workers import warm
{before}
warm._import(Path(tempfile.mkdtemp()))
from deepspeed.accelerator import get_accelerator
assert torch.cuda.is_available() and get_accelerator()._name == "cuda"
assert not calls, calls[0]
"""


def test_what_a_warm_process_imports_does_not_begin_cuda() -> None:
    run_python(IMPORTS.format(before=""))


def test_a_call_that_begins_cuda_would_be_noticed() -> None:
    with pytest.raises(Exception, match="CUDA has begun"):
        run_python(IMPORTS.format(before="torch.cuda.get_device_properties(0)"))
