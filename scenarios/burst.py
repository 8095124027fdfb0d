"""A few users, and every so often very many: what does the agent's queue do then?

    locust -f burst.py --host http://127.0.0.1:8000 --headless --calm-users 5 --burst-users 200

When there are how many is what shapes/burst.py says; Locust passes over --users and --run-time.
"""

from __future__ import annotations

import random

from common import Visitor
from locust import task
from shapes.burst import Burst  # noqa: F401 (Locust looks for it here)


class Item(Visitor):
    @task
    def item(self):
        self.ask(f"/items/{random.randint(1, 10_000)}", "/items/{id}")
