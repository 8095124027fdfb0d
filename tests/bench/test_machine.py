"""What a campaign records of the machine, when it may go on, and who runs on which CPU."""

from __future__ import annotations

import getpass
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from autoinstr.bench import machine
from autoinstr.bench.parts import USAGE, Refusal


def allow(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    monkeypatch.setattr(machine, "allowed_cpus", lambda: frozenset(cpus))


@pytest.fixture
def topology(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """State which CPUs share a core."""
    monkeypatch.setattr(machine, "_CPU", tmp_path)

    def write(*groups: str) -> None:
        for group in groups:
            for cpu in machine.cpu_list(group):
                folder = tmp_path / f"cpu{cpu}" / "topology"
                folder.mkdir(parents=True)
                (folder / "thread_siblings_list").write_text(group + "\n")

    return write


@pytest.mark.parametrize(("text", "cpus"), [("0", {0}), ("0-2", {0, 1, 2}), ("0-1,5", {0, 1, 5}), (" 3 , 1 ", {1, 3})])
def test_lists_of_cpus_are_read_as_the_kernel_writes_them(text: str, cpus: set[int]) -> None:
    """--server-cpus takes what taskset, lscpu and compose files take."""
    assert machine.cpu_list(text) == cpus


@pytest.mark.parametrize("text", ["", "x", "0-", "2-1", "-1", "0,,1", "0-99999999"])
def test_other_texts_are_no_lists_of_cpus(text: str) -> None:
    """A typing error must not pin to something else, nor fill the memory."""
    with pytest.raises(ValueError):
        machine.cpu_list(text)


def test_on_two_cpus_the_server_has_the_first_and_the_rest_the_other(
    monkeypatch: pytest.MonkeyPatch, topology: Any
) -> None:
    """The smallest machine that can measure; the CPUs need not be 0 and 1 (containers)."""
    topology("0", "1", "2", "3")
    allow(monkeypatch, 2, 3)
    assert machine.cores() == machine.Cores(frozenset({2}), frozenset({3}))
    assert machine.cores(server="3") == machine.Cores(frozenset({3}), frozenset({2}))
    assert machine.cores(generator="2") == machine.Cores(frozenset({3}), frozenset({2}))
    assert machine.cores(server="2", generator="3").can_pin


def test_the_generator_keeps_off_the_servers_hyper_thread(monkeypatch: pytest.MonkeyPatch, topology: Any) -> None:
    """Two hyper-threads share one core: load on one slows the other by a third, which would be taken for the program."""
    topology("0,4", "1,5", "2,6", "3,7")
    allow(monkeypatch, *range(8))
    assert machine.cores() == machine.Cores(frozenset({0}), frozenset({1, 2, 3, 5, 6, 7}))
    assert machine.cores(server="1-2").generator == {0, 3, 4, 7}
    allow(monkeypatch, 0, 4)
    assert machine.cores() == machine.Cores(frozenset({0}), frozenset({4}))


@pytest.mark.parametrize(
    ("server", "generator", "text"),
    [
        ("1", "0-1", "CPU 1 would be shared"),
        ("0-2", None, "leave the load generator at least one"),
        ("7", None, "CPU 7 cannot be used here: this process may use 0,1,2"),
        ("one", None, "'one' is not a list of CPUs"),
        (None, "2-1", "'2-1' is not a list of CPUs"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(
    monkeypatch: pytest.MonkeyPatch, topology: Any, server: str | None, generator: str | None, text: str
) -> None:
    """A generator on the server's CPU would be measured as latency of the program."""
    topology("0", "1", "2")
    allow(monkeypatch, 0, 1, 2)
    with pytest.raises(Refusal, match=text) as refused:
        machine.cores(server, generator)
    assert refused.value.status == USAGE


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin")
def test_one_cpu_is_too_few() -> None:
    """In a container with one CPU everything would be measured together."""
    text = """
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from autoinstr.bench import machine, parts
try: machine.cores()
except parts.Refusal as refusal: print(refusal)
"""
    result = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert result.stdout.startswith("this process may use one CPU only")
    assert "at least 2" in result.stdout


def test_where_nothing_can_be_pinned_nothing_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the harness still runs, and says that it is not pinned; asking for CPUs is refused, not ignored."""
    allow(monkeypatch)
    assert not machine.cores().can_pin
    with pytest.raises(Refusal, match="cannot pin"):
        machine.cores(server="0")


def test_the_description_names_neither_machine_nor_user() -> None:
    """Manifests are published with the results."""
    described = machine.machine()
    text = json.dumps(described).lower()
    names = {socket.gethostname(), getpass.getuser(), os.path.expanduser("~"), os.getcwd(), sys.prefix, sys.executable}
    for name in names:
        if len(name) > 3:
            assert name.lower() not in text
    assert described["cpu"]["cores"] == os.cpu_count()
    assert described["memory_bytes"] > 1 << 26
    assert described["python"]["version"] == ".".join(map(str, sys.version_info[:3]))
    assert json.loads(json.dumps(described)) == described


def test_the_fingerprint_tells_other_machines_and_not_reboots() -> None:
    """--resume refuses a campaign of another machine; some megabytes less memory after a reboot are no other machine."""
    described = machine.machine()
    same = {**described, "memory_bytes": described["memory_bytes"] // (1 << 30) * (1 << 30) + (1 << 20)}
    reread = json.loads(json.dumps({**same, "memory_bytes": same["memory_bytes"] + (8 << 20)}))
    assert machine.fingerprint(same) == machine.fingerprint(reread)
    others = [
        {**same, "cpu": {**same["cpu"], "model": "another"}},
        {**same, "cpu": {**same["cpu"], "governor": "another"}},
        {**same, "kernel": "another"},
        {**same, "cgroup": {**same["cgroup"], "cpu_limit_cores": 0.5}},
        {**same, "python": {**same["python"], "version": "another"}},
        {**same, "memory_bytes": same["memory_bytes"] + (4 << 30)},
    ]
    assert len({machine.fingerprint(one) for one in (same, *others)}) == 1 + len(others)


@pytest.mark.parametrize(
    ("files", "cpu", "memory"),
    [
        ({"cpu.max": "150000 100000", "memory.max": "1073741824"}, 1.5, 1 << 30),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        (
            {"cpu.cfs_quota_us": "50000", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "536870912"},
            0.5,
            1 << 29,
        ),
        (
            {"cpu.cfs_quota_us": "-1", "cpu.cfs_period_us": "100000", "memory.limit_in_bytes": "9223372036854771712"},
            None,
            None,
        ),
        ({}, None, None),
    ],
)
def test_limits_of_control_groups_are_read_in_both_versions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cpu: float | None, memory: int | None
) -> None:
    """A container with half a core is another machine than its host."""
    monkeypatch.setattr(machine, "cgroup_folders", lambda controller: [tmp_path])
    for name, text in files.items():
        (tmp_path / name).write_text(text + "\n")
    limits = machine.machine()["cgroup"]
    assert limits == {"cpu_limit_cores": cpu, "memory_limit_bytes": memory}


@pytest.mark.parametrize(
    ("files", "boost"),
    [({"cpufreq/boost": "1"}, True), ({"cpufreq/boost": "0"}, False), ({"intel_pstate/no_turbo": "1"}, False), ({}, None)],
)
def test_boost_is_read_from_both_drivers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], boost: bool | None
) -> None:
    """Boost makes the clock depend on the temperature; the two drivers say it the other way round."""
    monkeypatch.setattr(machine, "_CPU", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(text + "\n")
    assert machine.machine()["cpu"]["boost"] is boost


def test_versions_are_those_that_are_installed() -> None:
    """A result without the versions of what was measured cannot be repeated."""
    assert machine.versions(["pytest", "no-such-distribution"]) == {"pytest": pytest.__version__}
