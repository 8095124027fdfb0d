"""The docker engine that the tests talk to: the one that answers, else, in continuous integration, one that they start.

Owns: whether there is an engine, the start and the end of a daemon.
Must not know: images, stacks.
Invariants: nobody's machine gets a daemon unasked: only with CI=true, as root, and where no other engine is named. One that was
started here ends with the tests, also with those that are killed.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import closing, contextmanager

import docker

START_S, END_S = 60, 60
#: Of tests that were killed: with the daemon their stacks would start again.
LEFT_BEHIND = {"label": "com.docker.compose.project"}
OURS = "autoinstr-test-"


class Missing(Exception):
    """What this machine lacks, in a sentence."""


@contextmanager
def connected() -> Iterator[docker.DockerClient]:
    """An engine. Raises Missing."""
    client = _client()
    if isinstance(client, docker.DockerClient):
        with closing(client):
            yield client
    elif reason := _why_none_is_started():
        raise Missing(f"no docker engine answers ({client}): {reason}")
    else:
        with _daemon() as started:
            _clear(started)
            yield started


def _client() -> docker.DockerClient | str:
    """Or why there is none."""
    with warnings.catch_warnings():
        # What it could not connect, the SDK leaves open.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            return docker.from_env(timeout=300)
        except docker.errors.DockerException as error:
            reason = str(error)
        gc.collect()
    return reason


def _why_none_is_started() -> str:
    if os.environ.get("CI") != "true":
        return "start dockerd"
    if "DOCKER_HOST" in os.environ:
        return "see to the one that DOCKER_HOST names"
    if "PYTEST_XDIST_WORKER" in os.environ:
        return "start dockerd, or run these tests without -n, and they do it"
    if os.geteuid() or not shutil.which("dockerd"):
        return "apt-get install docker.io, and be root"
    return ""


@contextmanager
def _daemon() -> Iterator[docker.DockerClient]:
    with tempfile.TemporaryFile() as log:
        # Ends with its parent, however that ends.
        words = ["setpriv", "--pdeathsig", "TERM", "dockerd"]
        daemon = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            deadline = time.monotonic() + START_S
            while not isinstance(client := _client(), docker.DockerClient):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    log.seek(0)
                    raise Missing(f"dockerd does not start here: {log.read()[-2000:].decode('utf-8', 'replace')}")
                time.sleep(0.1)
            with closing(client):
                yield client
        finally:
            daemon.terminate()
            daemon.wait(END_S)


def _clear(client: docker.DockerClient) -> None:
    """Takes away what tests that were killed have left; nobody else's can run in a daemon that has just been started."""
    for container in client.containers.list(all=True, filters=LEFT_BEHIND):
        if container.labels[LEFT_BEHIND["label"]].startswith(OURS):
            container.remove(force=True, v=True)
    for kind in (client.networks, client.volumes):
        for each in kind.list(filters=LEFT_BEHIND):
            if each.name.startswith(OURS):
                each.remove()
