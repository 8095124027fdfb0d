"""Three calls to the service behind for each request, through requests.

    locust -f fanout_requests.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

from common import Visitor
from locust import task


class FanoutRequests(Visitor):
    @task
    def fanout(self):
        self.ask("/fanout?n=3", "/fanout")
