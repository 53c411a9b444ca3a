"""Become another program that ends (SIGTERM) when the process that started it does, even if that is killed.

Run by path, with the standard library alone: `python -I launch.py PARENT_PID PROGRAM ARGUMENTS...`. A process of its
own sets this up, because running Python between fork and exec is not safe in a parent that has threads, as a kernel.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # from <linux/prctl.h>: the signal that we get when our parent dies; it outlives an exec

if __name__ == "__main__":
    parent, program = int(sys.argv[1]), sys.argv[2:]
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM) != 0:
        sys.exit(f"prctl: {os.strerror(ctypes.get_errno())}")
    if os.getppid() != parent:  # it ended before the signal was set
        sys.exit("the process that started this server is gone")
    os.execv(program[0], program)
