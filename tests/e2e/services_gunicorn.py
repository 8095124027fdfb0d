"""Configuration of gunicorn: a worker says when it listens to signals; "Booting worker" is said before that."""

from typing import Any


def post_worker_init(worker: Any) -> None:
    worker.log.info("Worker serves")
