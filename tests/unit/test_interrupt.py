"""An interrupt ends a run, whichever thread the system hands it to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import asyncio, signal, sys, threading
from gristmill import Kernel, function

class Slow:
    """Waits."""

    @function
    async def wait(self) -> str:
        """Send the interrupt to this very thread, which is not the main one, then wait for ever."""
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        await asyncio.sleep(3600)
        return ""

with Kernel(plugins={"slow": Slow()}, cache=False) as kernel:
    try:
        kernel.recipe(sys.argv[1]).run()
    except KeyboardInterrupt:
        print("interrupted")
'''


def test_an_interrupt_that_reaches_another_thread_ends_the_run(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("version: 1\nsteps: {s: {use: slow.wait}}\noutput: ${s}\n")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "r.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout == "interrupted\n", done.stderr
