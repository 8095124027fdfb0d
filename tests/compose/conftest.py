"""A docker engine, and the images of the stacks; without them tests are skipped, and say what is missing."""

from __future__ import annotations

from collections.abc import Iterator

import docker
import pytest

from . import engine as engine_of
from . import images as images_of
from .stacks import compose_command


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    if not compose_command():
        pytest.skip("no compose: apt-get install docker-compose")
    try:
        with engine_of.connected() as client:
            yield client
    except engine_of.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def images(engine: docker.DockerClient) -> dict[str, str]:
    try:
        return images_of.images(engine)
    except engine_of.Missing as missing:
        pytest.skip(str(missing))
