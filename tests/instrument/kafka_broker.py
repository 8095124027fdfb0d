"""Kafka brokers of the tests' own: the one that librdkafka brings with it, and Kafka itself where its jars are.

librdkafka's speaks the protocol over TCP, but knows neither the newest versions nor how to ask for them: clients are told.
Kafka itself takes part when KAFKA_JARS is a folder with its jars (org.apache.kafka:kafka_2.13 with what it needs) and Java is there.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from typing import TYPE_CHECKING

import confluent_kafka

from fakes import until
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

JARS = os.environ.get("KAFKA_JARS", "")
BROKERS = ("librdkafka", "kafka") if JARS and shutil.which("java") else ("librdkafka",)
SETTINGS = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}
controller.listener.names=CONTROLLER
log.dirs={folder}/data
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
num.partitions=1
"""


def running(kind: str, folder: Path) -> contextlib.AbstractContextManager[str]:
    """A broker's address."""
    return apache_kafka(folder) if kind == "kafka" else mock()


@contextlib.contextmanager
def mock() -> Iterator[str]:
    """It lives as long as the client that brings it."""
    settings = {"test.mock.num.brokers": 1, "test.mock.default.partitions": 1, "bootstrap.servers": "-", "log_level": 0}
    try:
        owner = confluent_kafka.cimpl.Producer(settings)
    except confluent_kafka.KafkaException:
        del settings["test.mock.default.partitions"]
        owner = confluent_kafka.cimpl.Producer(settings)
    (broker,) = owner.list_topics(timeout=20).brokers.values()
    yield f"{broker.host}:{broker.port}"
    del owner


@contextlib.contextmanager
def apache_kafka(folder: Path) -> Iterator[str]:
    port = free_port(2)
    settings = folder / "server.properties"
    settings.write_text(SETTINGS.format(port=port, controller=port + 1, folder=folder))
    java = ["java", "-Xmx256m", "-XX:TieredStopAtLevel=1", "-cp", f"{JARS}/*"]
    with open(folder / "log", "wb") as log:
        subprocess.run(
            [*java, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", str(settings)], stdout=log, stderr=log, check=True, timeout=60
        )
        process = subprocess.Popen([*java, "kafka.Kafka", str(settings)], stdout=log, stderr=log)
    try:
        until(lambda: _answers(port) or process.poll() is not None, "the start of Kafka")
        assert process.poll() is None, (folder / "log").read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def _answers(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
