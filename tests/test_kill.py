"""SIGKILL at random moments: the short version of `benchmarks/kill_and_resume.py`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks" / "kill_and_resume.py"


@pytest.mark.parametrize("algorithm", ["SAC", "TRPO"])
def test_a_run_that_is_killed_and_resumed_ends_like_one_that_is_not(algorithm: str) -> None:
    command = [sys.executable, str(PROGRAM), "result.json", "--kills", "3", "--epochs", "6", "--algorithms", algorithm]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    [result] = json.loads(Path("result.json").read_text())
    assert result["kills"] >= 1
    assert result["differences"] == []
    assert result["metrics_identical"]
