"""Every second request goes wrong, as it should: an exception in the service (500), or no such page (404).

    locust -f errors.py --host http://127.0.0.1:8000

A status that was expected is a success here, any other is a failure.
"""

from __future__ import annotations

from common import Visitor, deck
from locust import task

STATUSES = {"/": 200, "/error": 500, "/missing": 404}
ROUTES = deck({"/": 2, "/error": 1, "/missing": 1})


class Errors(Visitor):
    @task
    def anything(self):
        route = next(ROUTES)
        self.ask(route, route, STATUSES[route])
