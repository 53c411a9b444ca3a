"""Run a server until it is stopped: start it again when it or one of its workers dies, hide its key, bound its log.

`start` runs it in the state folder, as `python -m rice_lib.serving.supervise PARENT MARK`, with what is to be run as
JSON on stdin. With PARENT other than 0 it ends (SIGTERM) when that process does, even if that is killed, and the server
with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import psutil

from rice_lib.serving.server import LOG_FILE, STOP_SECONDS, clear, read_state

PR_SET_PDEATHSIG, PTRACE_TRACEME, PTRACE_DETACH = 1, 0, 17  # from <linux/prctl.h> and <linux/ptrace.h>

STACK_BYTES = 512 * 2**20
"""The server parses bodies on its threads' stacks: with the usual 8 MiB, one large form, 600,000 chunks or JSON nested
200,000 deep end it."""
MAX_FILES = 65536
LOG_BYTES = 16 * 2**20  # of the log, then copied to `<name>.1`
FIRST_DELAY_S, LONGEST_DELAY_S, STEADY_S = 0.5, 30.0, 60.0
"""Before a server is started again; doubled each time until it has run for the last."""
LOOK_SECONDS = 2.0  # between two looks at the workers

_LIBC = ctypes.CDLL(None, use_errno=True)


def spawn(command: Sequence[str], environment: Mapping[str, str], hidden: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a server with words of its command replaced by `hidden` ones, which only its own user can read.

    Anyone may read a process's command line (`/proc/PID/cmdline`), and only its user its environment. Triton takes keys
    on the command line alone. So it is stopped before its first instruction, and its arguments are pointed at its
    environment. Where the system lets no process be traced, the words stand on the command line, and the log says so.
    """

    def start(words: Sequence[str], traced: bool) -> subprocess.Popen[bytes]:
        def prepare() -> None:
            _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            if traced and _LIBC.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
                raise OSError(ctypes.get_errno(), "ptrace")

        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            env={**environment, **hidden},
            preexec_fn=prepare,  # noqa: PLW1509 - safe: this process has no other thread
        )

    try:
        process = start(command, traced=True)
    except subprocess.SubprocessError:
        _say("no process may be traced here: others can read the control key off the command line")
        return start([hidden.get(word, word) for word in command], traced=False)
    os.waitpid(process.pid, 0)
    _point_at_environment(process.pid, hidden)
    _LIBC.ptrace(PTRACE_DETACH, process.pid, None, None)
    return process


def _point_at_environment(pid: int, names: Iterable[str]) -> None:
    """Rewrite the arguments of a process that has just become another program: argc, argv, 0, envp, 0, texts."""
    stack = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[25])  # startstack, see proc(5)
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(stack)
        data = memory.read(2**24)  # to the end of the stack
        numbers = struct.unpack_from(f"<{len(data) // 8}Q", data)
        count = numbers[0]
        variables = numbers[count + 2 : numbers.index(0, count + 2)]

        def text(place: int) -> bytes:
            return data[place - stack : data.index(b"\0", place - stack)]

        values = {text(place).partition(b"=")[0]: place for place in variables}
        arguments = [text(place) for place in numbers[1 : count + 1]]
        for name in map(str.encode, names):
            memory.seek(stack + 8 * (1 + arguments.index(name)))
            memory.write(struct.pack("<Q", values[name] + len(name) + 1))


def _say(text: str) -> None:
    """Write a line to the log, which is this process's stdout and the server's."""
    print(f"rice serve: {text}", flush=True)


def _serve(process: subprocess.Popen[bytes], stopping: threading.Event) -> int:
    """Wait until a server ends, and bound its log; have it end where that is asked for or a worker is dead."""
    ends: float | None = None
    zombies, look, log = set[int](), time.monotonic(), Path(LOG_FILE)
    while (status := process.poll()) is None:
        time.sleep(0.1)
        now, dead = time.monotonic(), False
        if now > look:
            # dead for two looks: not about to be unloaded, when the server waits for them
            before, zombies, look = zombies, _zombies(process.pid), now + LOOK_SECONDS
            dead = not before.isdisjoint(zombies)
            if log.stat().st_size > LOG_BYTES:
                shutil.copyfile(log, f"{LOG_FILE}.1")
                os.truncate(log, 0)  # who writes appends: the next line is the first
        if ends is None and (dead or stopping.is_set()):
            _say("a worker is dead: starting the server again" if dead else "stopping")
            process.terminate()
            ends = now + STOP_SECONDS
        elif ends is not None and now > ends:
            process.kill()
    return status


def _zombies(pid: int) -> set[int]:
    try:
        return {child.pid for child in psutil.Process(pid).children() if child.status() == psutil.STATUS_ZOMBIE}
    except psutil.NoSuchProcess:
        return set()


def _raise_limits() -> None:
    for kind, wanted in ((resource.RLIMIT_STACK, STACK_BYTES), (resource.RLIMIT_NOFILE, MAX_FILES)):
        soft, hard = resource.getrlimit(kind)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def main() -> int:
    """Supervise; returns the exit status of the server that was stopped, or that ended before it was ever ready."""
    stopping, parent = threading.Event(), int(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    if parent:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:  # it ended before the signal was set
            return 1
    plan, state_dir, delay = json.load(sys.stdin), Path.cwd(), FIRST_DELAY_S
    _raise_limits()
    while True:
        began = time.monotonic()
        process = spawn(plan["command"], plan["environment"], plan["hidden"])
        status = _serve(process, stopping)
        state = read_state(state_dir)
        if stopping.is_set() or state is None or state.ready_s is None:
            return status
        clear(state_dir)
        delay = FIRST_DELAY_S if time.monotonic() - began > STEADY_S else min(2 * delay, LONGEST_DELAY_S)
        _say(f"the server ended ({status}): starting it again in {delay:g} s")
        if stopping.wait(delay):
            return status


if __name__ == "__main__":
    sys.exit(main())
