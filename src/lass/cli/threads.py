"""Number of threads of a command, on machines that are shared with other processes."""

from __future__ import annotations

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def set_up_threads() -> None:
    """Set the environment of OpenMP, which torch reads when it is imported; what the user has set is kept.

    OpenMP's threads wait for each other by spinning, up to 15 ms in libgomp. If the thread that is waited for does not
    run because other processes use the CPUs, all of this time is lost: the separation of one MNIST mixture with two
    threads on two CPUs, which 7 processes shared, took 200 to 230 s, and 39 s with at most 1,000 spins (about 0.05 ms).
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = "1000"
    if (quota := cpu_quota()) is not None and quota < affinity():  # torch counts the CPUs without their quota
        os.environ.setdefault("OMP_NUM_THREADS", str(quota))


def num_threads() -> int:
    """Return the default number of threads: OMP_NUM_THREADS, or the number of CPUs that this process may use."""
    chosen = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return int(chosen) if chosen.isdigit() and int(chosen) else affinity()


def affinity() -> int:
    """Return the number of CPUs on which the operating system may run this process."""
    if hasattr(os, "sched_getaffinity"):  # on Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_quota(root: Path = CGROUPS) -> int | None:
    """Return the CPU quota of a container, e.g. of `docker run --cpus=2`, rounded up; None if there is none.

    Args:
        root: Folder of the control groups; a container sees its own group there.
    """
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:  # version 1
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or not int(period):  # "max" or -1: unlimited
        return None
    return max(1, math.ceil(int(quota) / int(period)))
