"""Three calls to the service behind for each request, through urllib.request, each on a connection of its own.

    locust -f fanout_urllib.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

from common import Visitor
from locust import task


class FanoutUrllib(Visitor):
    @task
    def fanout(self):
        self.ask("/fanout-urllib?n=3", "/fanout-urllib")
