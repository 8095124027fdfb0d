"""Five calls to the service behind at once, from one coroutine.

    locust -f asgi_concurrent.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

from common import Visitor
from locust import task


class Concurrent(Visitor):
    @task
    def concurrent(self):
        self.ask("/concurrent?n=5", "/concurrent")
