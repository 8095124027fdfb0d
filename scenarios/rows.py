"""Ten queries through sqlite3 for each request.

    locust -f rows.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

from common import Visitor
from locust import task


class Rows(Visitor):
    @task
    def rows(self):
        self.ask("/rows?count=10", "/rows")
