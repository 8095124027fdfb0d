"""A plain locustfile: the same small request all the time, for the generator's ceiling."""

from __future__ import annotations

from locust import FastHttpUser, task


class Static(FastHttpUser):
    """Asks for ``/``."""

    @task
    def root(self) -> None:
        self.client.get("/")
