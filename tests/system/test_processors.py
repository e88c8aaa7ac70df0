"""How many processors there are for this process."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ASK = "from async_ckpt.system.processors import processors; print(processors())"


def asked() -> int:
    return int(subprocess.run([sys.executable, "-c", ASK], capture_output=True, check=True).stdout)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="no affinity here")
def test_processors_that_others_have_do_not_count() -> None:
    mine = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(mine)})
        assert asked() == 1
    finally:
        os.sched_setaffinity(0, mine)
    assert asked() == len(mine)
