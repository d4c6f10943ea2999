"""CPU time of server processes, from /proc."""

from __future__ import annotations

import os
import pathlib
import time

TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")


def cpu_ns(pid: int) -> int | None:
    """CPU time of a process so far in ns: the scheduler's count, or utime + stime where there is none. None once it is gone."""
    try:
        counted = int(pathlib.Path(f"/proc/{pid}/schedstat").read_text().split()[0])
        if counted:
            return counted
    except (OSError, ValueError, IndexError):
        pass
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) * TICK


def until_gone(pid: int, expected_end: float) -> int:
    """Waits for a process to end; the CPU time that it had when last seen, at most two milliseconds before."""
    last = 0
    while now := cpu_ns(pid):
        last = now
        time.sleep(0.05 if time.monotonic() < expected_end - 0.1 else 0.002)
    return last


def children(pid: int, title: str) -> list[int]:
    """The children of a process whose command line contains `title`."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if int((path / "stat").read_text().rpartition(")")[2].split()[1]) != pid:
                continue
            if title in (path / "cmdline").read_bytes().decode(errors="replace"):
                found.append(int(path.name))
        except OSError:
            continue
    return found


def settled_ns(pid: int) -> int:
    """CPU time of a process that has done its work and is about to wait: once it waits, so that all of it is counted."""
    while pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "S":
        pass
    used = cpu_ns(pid)
    if used is None:
        raise RuntimeError(f"process {pid} is gone")
    return used


def pin(pid: int, cpus: list[int]) -> None:
    """Lets a process run on these CPUs; one that is gone needs none."""
    try:
        os.sched_setaffinity(pid, cpus)
    except ProcessLookupError:
        pass
