"""A service's day: reading, waiting, working, calling others, in fixed shares.

    locust -f mixed.py --host http://127.0.0.1:8000
"""

from __future__ import annotations

import random

from common import Visitor, deck
from locust import task

#: Of 20 requests: route -> how many.
SHARES = {"/items/{id}": 10, "/": 4, "/fanout": 3, "/work": 2, "/slow": 1}

PATHS = {
    "/items/{id}": lambda: f"/items/{random.randint(1, 10_000)}",
    "/": lambda: "/",
    "/fanout": lambda: f"/fanout?n={random.randint(1, 3)}",
    "/work": lambda: "/work?us=500",
    "/slow": lambda: "/slow?ms=20",
}

#: One for all users of a process: the shares hold for what the service gets.
ROUTES = deck(SHARES)


class Mixed(Visitor):
    @task
    def anything(self):
        route = next(ROUTES)
        self.ask(PATHS[route](), route)
