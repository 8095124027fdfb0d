"""What the locustfiles share: the kind of user, the trace headers that requests may come with, and exact shares.

    locust -f hello.py --host http://127.0.0.1:8000 --traceparent sampled

Each task makes one request: the harness loads a file of its own beside these, which decides when the next task runs, and
takes a task for a request. Names of requests are routes, so that statistics group.
"""

from __future__ import annotations

import os
import random

from locust import FastHttpUser, events

#: What ``--traceparent`` may be: the flags of the header (W3C Trace Context), or no header.
FLAGS = {"none": "", "unsampled": "00", "sampled": "01"}


@events.init_command_line_parser.add_listener
def add_option(parser):
    parser.add_argument(
        "--traceparent",
        choices=sorted(FLAGS),
        default="none",
        env_var="SCENARIO_TRACEPARENT",
        help="whether requests come with a trace header, as from a traced caller, and what it says (none)",
    )


class Visitor(FastHttpUser):
    """Asks, and takes any but the expected status for a failure. Does not wait, unless a subclass does."""

    abstract = True

    def __init__(self, environment):
        super().__init__(environment)
        self.flags = FLAGS[environment.parsed_options.traceparent]

    def ask(self, path, route, status=200):
        """One request; ``route`` is its name in the statistics."""
        headers = {"traceparent": f"00-{new_id(16)}-{new_id(8)}-{self.flags}"} if self.flags else None
        if status == 200:  # What Locust takes for success anyway, and at less cost.
            self.client.get(path, name=route, headers=headers)
            return
        with self.client.get(path, name=route, headers=headers, catch_response=True) as answer:
            if answer.status_code == status:
                answer.success()
            elif answer.status_code:  # Otherwise there was no answer, and Locust says why.
                answer.failure(f"{route} answered {answer.status_code} instead of {status}")


def new_id(size):
    """Bytes in hex. From the system: Locust's forked workers would draw the same ids from a common generator."""
    return os.urandom(size).hex()


def deck(shares):
    """Endlessly gives the keys of ``shares``, in random order, each as often as its share says in every round.

    Drawing each time anew would make one run cost more than the next by chance.
    """
    cards = [card for card, share in shares.items() for _ in range(share)]
    while True:
        random.shuffle(cards)
        yield from cards
