"""Freed memory is kept, so that it need not be mapped anew."""

import ctypes
import os
import platform
import subprocess
import sys
from collections.abc import Callable

import pytest
from lightning.pytorch import Trainer

from lightning_rl import SACModule
from lightning_rl.algorithms import module

ALLOCATORS = ("LD_PRELOAD", "MALLOC_", "GLIBC_TUNABLES")  # which choose another one, or its thresholds

PROBE = """
import ctypes, resource
import torch
from lightning_rl.freed_memory import keep_freed_memory

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = MallInfo

held = []

def blocks_mapped_by_themselves():
    before = mallinfo2().hblks
    held.append(torch.empty(30 * 2**20, dtype=torch.uint8))  # freed, it would teach the same
    return mallinfo2().hblks - before

def pages_mapped():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks = [torch.ones(2**17) for _ in range(110)]  # 14,080 pages
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

before = blocks_mapped_by_themselves()
keep_freed_memory()
after = blocks_mapped_by_themselves()
held.clear()
pages_mapped()
print(before, after, pages_mapped())
"""


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc" or not hasattr(ctypes.CDLL(None), "mallinfo2"),
    reason="other C libraries have ways of their own",
)
def test_temporaries_are_not_mapped_anew_each_time() -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith(ALLOCATORS)}
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True, env=env)
    before, after, pages = map(int, done.stdout.split())
    assert (before, after) == (1, 0)
    assert pages < 500


def test_training_keeps_freed_memory(
    small_sac: Callable[..., SACModule], quiet_trainer: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(module, "keep_freed_memory", lambda: calls.append(None))
    quiet_trainer(max_epochs=1).fit(small_sac())
    assert len(calls) == 1
