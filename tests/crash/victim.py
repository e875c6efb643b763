"""Composes in forked children, each killed in front of one system call.

`python victim.py ROOT [force]` composes ROOT/a and ROOT/b into ROOT/out. After each child it prints
`STEP NAME`, then waits for a line, so that the reader can look at what the dead left behind. It
prints `done` when a child came to its end.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pemath

sys.path.insert(0, str(Path(__file__).parent))
from steps import intercepted


def main(root: Path, force: bool) -> None:
    bound = {name: str(root / name) for name in "ab"}

    def compose(out: Path) -> None:
        pemath.compose("0.5*a + 0.5*b", out, operands=bound, force=force)

    compose(root / "warm")  # all that is imported lazily is imported in the parent
    step = 0
    while True:
        child = os.fork()
        if child == 0:
            die_at(step, lambda: compose(root / "out"))
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            print("done", os.waitstatus_to_exitcode(status), flush=True)
            return
        print(step, flush=True)
        sys.stdin.readline()
        step += 1


def die_at(step: int, run: object) -> None:
    def at_step(number: int, name: str) -> None:
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)

    code = 1
    try:
        with intercepted(at_step):
            run()  # type: ignore[operator]
        code = 0
    finally:
        os._exit(code)


if __name__ == "__main__":
    main(Path(sys.argv[1]), force="force" in sys.argv[2:])
