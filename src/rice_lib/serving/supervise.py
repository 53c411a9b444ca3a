"""Run a server until it is stopped: start it again when it or one of its workers dies, hide its key, bound its log.

`start` runs it as `python -m rice_lib.serving.supervise PARENT MARK`, with what is to be run as JSON on stdin. With
PARENT other than 0 it ends (SIGTERM) when that process does, even if that is killed; the server ends so with it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from rice_lib.serving import processes
from rice_lib.serving.server import LOG_FILE, STOP_SECONDS, read_state

PR_SET_PDEATHSIG, PTRACE_TRACEME, PTRACE_DETACH = 1, 0, 17  # from <linux/prctl.h> and <linux/ptrace.h>

STACK_BYTES = 512 * 2**20
"""The server parses bodies on its threads' stacks: with the usual 8 MiB, one large form, 600,000 chunks or JSON nested
200,000 deep end it."""
MAX_FILES = 65536
LOG_BYTES = 16 * 2**20  # of the log, and of the part before it
FIRST_DELAY_S, LONGEST_DELAY_S, STEADY_S = 0.5, 30.0, 60.0
"""Before a server is started again; doubled each time until it has run for the last."""
LOOK_SECONDS = 2.0  # between two looks at the workers

_LIBC = ctypes.CDLL(None, use_errno=True)


class Log:
    """A log of bounded length: what is older goes to `<name>.1`, and what is older than that away."""

    def __init__(self, path: Path) -> None:
        self._path, self._file = path, path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; a full disk does not end the server."""
        with suppress(OSError):
            self._file.write(data)
            if self._file.tell() > LOG_BYTES:
                os.replace(self._path, f"{self._path}.1")
                self._file.close()
                self._file = self._path.open("ab", buffering=0)

    def note(self, text: str) -> None:
        """Append a line of our own."""
        self.write(f"rice serve: {text}\n".encode())


class Workers:
    """The processes of a server's models; where one dies, the server waits for it when it unloads the model."""

    def __init__(self, pid: int) -> None:
        self._server, self._next = psutil.Process(pid), time.monotonic()
        self._zombies: set[int] = set()

    def dead(self) -> bool:
        """Whether one has been dead since the last look, some seconds ago: it is not about to be unloaded."""
        if time.monotonic() < self._next:
            return False
        before, self._zombies, self._next = self._zombies, set(), time.monotonic() + LOOK_SECONDS
        with suppress(psutil.NoSuchProcess):
            self._zombies = {p.pid for p in self._server.children() if p.status() == psutil.STATUS_ZOMBIE}
        return bool(before & self._zombies)


def spawn(
    command: Sequence[str], environment: Mapping[str, str], hidden: Mapping[str, str], log: Log
) -> subprocess.Popen[bytes]:
    """Start a server with words of its command replaced by `hidden` ones, which only its own user can read.

    Anyone may read a process's command line (`/proc/PID/cmdline`), and only its user its environment. Triton takes keys
    on the command line alone. So it is stopped before its first instruction, and its arguments are pointed at its
    environment. Where the system lets no process be traced, the words stand on the command line, and the log says so.
    """

    def prepare() -> None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    def prepare_traced() -> None:
        prepare()
        if _LIBC.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
            raise OSError(ctypes.get_errno(), "ptrace")

    def start(words: Sequence[str], before: Callable[[], None]) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**environment, **hidden},
            preexec_fn=before,  # noqa: PLW1509 - safe: this process has no other thread
        )

    try:
        process = start(command, prepare_traced)
    except subprocess.SubprocessError:
        log.note("no process may be traced here: others on this machine can read the control key off the command line")
        return start([hidden.get(word, word) for word in command], prepare)
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


def _serve(process: subprocess.Popen[bytes], workers: Workers, log: Log, stopping: threading.Event) -> int:
    """Copy a server's output to the log until it ends; have it end where that is asked for or a worker is dead."""
    assert process.stdout is not None
    ending: float | None = None
    while (status := process.poll()) is None:
        if select.select([process.stdout], [], [], 0.2)[0]:
            if data := os.read(process.stdout.fileno(), 2**16):
                log.write(data)
            else:
                time.sleep(0.05)  # it has closed its output and not ended yet
        if ending is None:
            if dead := workers.dead():
                log.note("a worker is dead: starting the server again")
            if dead or stopping.is_set():
                process.terminate()
                ending = time.monotonic()
        elif time.monotonic() - ending > STOP_SECONDS:
            process.kill()
    while select.select([process.stdout], [], [], 0)[0] and (data := os.read(process.stdout.fileno(), 2**16)):
        log.write(data)
    process.stdout.close()
    return status


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
    plan = json.load(sys.stdin)
    state_dir = Path(plan["state_dir"])
    log, delay = Log(state_dir / LOG_FILE), FIRST_DELAY_S
    _raise_limits()
    while True:
        began = time.monotonic()
        process = spawn(plan["command"], plan["environment"], plan["hidden"], log)
        status = _serve(process, Workers(process.pid), log, stopping)
        state = read_state(state_dir)
        if stopping.is_set() or state is None or state.ready_s is None:
            return status
        processes.clear(state_dir)
        delay = FIRST_DELAY_S if time.monotonic() - began > STEADY_S else min(2 * delay, LONGEST_DELAY_S)
        log.note(f"the server ended ({status}): starting it again in {delay:g} s")
        stopping.wait(delay)


if __name__ == "__main__":
    sys.exit(main())
