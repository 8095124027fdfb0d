"""The machine that measures: what it is, whether it is the same one still, and which of its CPUs does what.

Owns: the description in the manifest, the fingerprint that a resumed campaign checks, the choice of CPUs, package versions.
Must not know: variants, runs, what is done with the description.
Invariants: nothing that names the machine or its user (host name, address, user, folder); what the system does not say is
None; the server never shares a CPU with the generator.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import sys
import sysconfig
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from autoinstr.bench.parts import Refusal
from autoinstr.bench.probe import cgroup_folders

_CPU = Path("/sys/devices/system/cpu")
_GIB = 1 << 30
#: Control groups of version 1 say "no limit" by a number near 2^63.
_NO_LIMIT = 1 << 60

#: What must not change between the runs of a campaign. Memory and load may; times of the same work may not.
_SAME = ("cpu", "virtualisation", "kernel", "cgroup", "python", "system")


@dataclass(frozen=True)
class Cores:
    """Who runs where; both are empty where the system cannot pin a process to CPUs."""

    server: frozenset[int]
    generator: frozenset[int]

    @property
    def can_pin(self) -> bool:
        return bool(self.server)


def allowed_cpus() -> frozenset[int]:
    """The CPUs that this process may use; empty where the system does not say (then nothing can be pinned either)."""
    return frozenset(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else frozenset()


def cores(server: str | None = None, generator: str | None = None) -> Cores:
    """Which CPUs the program under test gets, and which the generator and the sink; lists as ``0``, ``0-1,3``.

    By default the server has the first allowed CPU and the others are the generator's, without the hyper-thread that shares
    the server's core where there are enough. Raises Refusal for one CPU, for CPUs that are not there, and for shared ones.
    """
    allowed = allowed_cpus()
    if not allowed:
        if server or generator:
            raise Refusal("this system cannot pin a process to CPUs: leave the options for CPUs out")
        return Cores(frozenset(), frozenset())
    if len(allowed) < 2:
        raise Refusal(
            "this process may use one CPU only, so that program and load generator would slow each other down: "
            "use a machine, a container or a cpuset with at least 2"
        )
    servers, generators = _parsed(server, allowed), _parsed(generator, allowed)
    if not servers:
        servers = frozenset([min(allowed - generators, default=min(allowed))])
    if not generators:
        beside = allowed - servers
        generators = beside - _siblings(servers) or beside
    if not generators:
        raise Refusal(f"the program would have all CPUs ({_as_list(servers)}): leave the load generator at least one")
    if servers & generators:
        shared = _as_list(servers & generators)
        raise Refusal(f"CPU {shared} would be shared by the program and the load generator: give each its own")
    return Cores(servers, generators)


def _parsed(text: str | None, allowed: frozenset[int]) -> frozenset[int]:
    if not text:
        return frozenset()
    try:
        wanted = cpu_list(text)
    except ValueError:
        raise Refusal(f"{text!r} is not a list of CPUs: write it as 0 or 0-1,3") from None
    if not wanted <= allowed:
        missing = _as_list(wanted - allowed)
        raise Refusal(f"CPU {missing} cannot be used here: this process may use {_as_list(allowed)}")
    return wanted


def cpu_list(text: str) -> frozenset[int]:
    """The numbers of a list as the kernel writes it (``0-1,3``). Raises ValueError for another text."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, dash, last = part.partition("-")
        start, end = int(first), int(last if dash else first)
        if not 0 <= start <= end < 1 << 16:
            raise ValueError(part)
        found.update(range(start, end + 1))
    return frozenset(found)


def _as_list(cpus: Iterable[int]) -> str:
    return ",".join(map(str, sorted(cpus)))


def _siblings(cpus: Iterable[int]) -> frozenset[int]:
    """All hyper-threads of the cores that the CPUs belong to."""
    found: set[int] = set()
    for cpu in cpus:
        text = _text(_CPU / f"cpu{cpu}" / "topology" / "thread_siblings_list")
        found |= cpu_list(text) if text else {cpu}
    return frozenset(found)


# ---- Description -----------------------------------------------------------------------------------


def machine() -> dict[str, Any]:
    """What the manifest says of the machine. Never raises for what the system does not tell."""
    return {
        "system": platform.system(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "memory_bytes": _memory_bytes(),
        "virtualisation": _virtualisation(),
        "container": _container(),
        "cgroup": {"cpu_limit_cores": _cpu_limit_cores(), "memory_limit_bytes": _memory_limit_bytes()},
        "python": _python(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
    }


def fingerprint(machine: Mapping[str, Any]) -> str:
    """What must be equal for a campaign to go on: CPU, virtualisation, kernel, limits, Python, and memory to a GiB."""
    same = {key: machine.get(key) for key in _SAME}
    same["memory_gib"] = round((machine.get("memory_bytes") or 0) / _GIB)
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:16]


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Distribution name -> version, of those that are installed for this Python."""
    found = {}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _cpu() -> dict[str, Any]:
    scaling = _CPU / "cpu0" / "cpufreq"
    return {
        "model": _cpuinfo("model name") or _cpuinfo("CPU implementer") or platform.processor() or None,
        "cores": os.cpu_count(),
        "allowed": len(allowed_cpus()) or None,
        "threads_per_core": _threads_per_core(),
        "governor": _text(scaling / "scaling_governor"),
        "boost": _boost(scaling),
        "max_mhz": _khz(scaling / "cpuinfo_max_freq"),
    }


def _threads_per_core() -> int | None:
    text = _text(_CPU / "cpu0" / "topology" / "thread_siblings_list")
    return len(cpu_list(text)) if text else None


def _boost(scaling: Path) -> bool | None:
    """Whether the clock may exceed its nominal frequency; None where it cannot be known (most virtual machines)."""
    boost = _text(_CPU / "cpufreq" / "boost") or _text(scaling / "boost")
    if boost is not None:
        return boost == "1"
    no_turbo = _text(_CPU / "intel_pstate" / "no_turbo")
    return None if no_turbo is None else no_turbo == "0"


def _khz(path: Path) -> int | None:
    text = _text(path)
    return int(text) // 1000 if text and text.isdigit() else None


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def _virtualisation() -> str | None:
    """The hypervisor's kind where the system gives it away, "yes" where only its presence, None on the bare metal."""
    hypervisor = _text(Path("/sys/hypervisor/type"))
    product = f"{_text(Path('/sys/class/dmi/id/sys_vendor')) or ''} {_text(Path('/sys/class/dmi/id/product_name')) or ''}"
    for sign in ("KVM", "QEMU", "VMware", "VirtualBox", "Xen", "Microsoft", "Amazon EC2", "Google", "OpenStack"):
        if sign.lower() in product.lower():
            return sign.lower()
    return hypervisor or ("yes" if "hypervisor" in (_cpuinfo("flags") or "").split() else None)


def _container() -> str | None:
    if Path("/.dockerenv").exists():
        return "docker"
    if Path("/run/.containerenv").exists():
        return "podman"
    return "kubernetes" if "KUBERNETES_SERVICE_HOST" in os.environ else None


def _cpu_limit_cores() -> float | None:
    """CPU quota of the control group over its period (v2 ``cpu.max``, v1 ``cpu.cfs_*``); None without a limit."""
    for folder in cgroup_folders("cpu"):
        words = (_text(folder / "cpu.max") or "").split()
        if not words:
            words = [_text(folder / f"cpu.cfs_{name}_us") or "" for name in ("quota", "period")]
        if all(word.isdigit() for word in words) and int(words[1]):
            return int(words[0]) / int(words[1])
    return None


def _memory_limit_bytes() -> int | None:
    for folder in cgroup_folders("memory"):
        text = _text(folder / "memory.max") or _text(folder / "memory.limit_in_bytes") or ""
        if text.isdigit() and int(text) < _NO_LIMIT:
            return int(text)
    return None


def _python() -> dict[str, Any]:
    config = sysconfig.get_config_vars()
    built_with = str(config.get("CONFIG_ARGS") or "")
    return {
        "implementation": platform.python_implementation(),
        "version": platform.python_version(),
        "compiler": platform.python_compiler(),
        "build": platform.python_build()[1],
        "is_optimised": "--enable-optimizations" in built_with if built_with else None,
        "has_lto": "--with-lto" in built_with if built_with else None,
        "has_gil": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),
        "is_debug": hasattr(sys, "gettotalrefcount"),
        "optimisation_flags": " ".join(re.findall(r"-O\w+|-march=\S+|-mtune=\S+|-fprofile-use", f"{config.get('PY_CFLAGS')}")),
    }


def _cpuinfo(name: str) -> str | None:
    for line in (_text(Path("/proc/cpuinfo")) or "").splitlines():
        key, separator, value = line.partition(":")
        if separator and key.strip() == name:
            return value.strip()
    return None


def _text(path: Path) -> str | None:
    """The content without white space around it; None when it is not there, not readable or empty."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip() or None
    except OSError:
        return None
