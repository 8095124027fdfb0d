"""One short answer.

    locust -f hello.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

from common import Visitor
from locust import task


class Hello(Visitor):
    @task
    def hello(self):
        self.ask("/", "/")
