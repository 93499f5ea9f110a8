"""How torch's threads behave on a shared machine: set before torch is loaded, which reads it once.

GNU OpenMP's threads spin while they wait for one another. Where another process has one of their cores, all others
then burn theirs until it comes back. They are told to sleep after a short while; and there are no more of them than
the processors that a container's quota pays for, which torch does not look at.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

SPINS = "1000"  # turns of a waiting loop, about a microsecond
CHOSEN_BY_USERS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
CGROUPS = Path("/sys/fs/cgroup")


def prepare_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set what the user did not set. Without effect once torch is loaded."""
    if "torch" in sys.modules:
        return
    if not any(name in environment for name in CHOSEN_BY_USERS):
        environment["GOMP_SPINCOUNT"] = SPINS
    available, quota = num_processors(), processor_quota()
    if quota is not None and quota < available:
        environment.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(quota))))


def num_processors() -> int:
    """Those that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_quota(own: Path = Path("/proc/self/cgroup"), mounted: Path = CGROUPS) -> float | None:
    """Processors that the control groups of this process may use at a time, the tightest of all; None without a limit.

    Both versions of control groups: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max) and
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us). own: lines `number:controllers:path`.
    """
    quotas = []
    for line in read(own).splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers or "cpu" in controllers.split(","):
            root = mounted / "cpu" if controllers else mounted
            folder = root / path.lstrip("/")
            quotas += [quota_of(place) for place in (folder, *folder.parents) if place.is_relative_to(root)]
    return min((quota for quota in quotas if quota is not None), default=None)


def quota_of(folder: Path) -> float | None:
    """Microseconds of processor over those of a period; None where there is no limit, or none can be read."""
    quota, period = (*read(folder / "cpu.max").split(), "", "")[:2]
    if not quota:
        quota, period = read(folder / "cpu.cfs_quota_us").strip(), read(folder / "cpu.cfs_period_us").strip()
    return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() and int(period) > 0 else None


def read(path: Path) -> str:
    """Empty where there is no such file."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
