"""Mixed traffic at a steady pace, for hours: to see memory grow, or not.

    locust -f soak.py --host http://127.0.0.1:8000 --headless --users 20 --pace 5 --run-time 8h
"""

from __future__ import annotations

import argparse
import random

import mixed
from locust import events


def pace(text):
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError("a pace is a number above 0")
    return value


@events.init_command_line_parser.add_listener
def add_option(parser):
    parser.add_argument(
        "--pace",
        type=pace,
        default=5.0,
        env_var="SCENARIO_PACE",
        help="soak: after how many requests a second each user has had enough, on average (5)",
    )


class Soak(mixed.Mixed):
    def wait_time(self):
        """Exponential: users that all wait equally long stay in step, and come in bursts."""
        return random.expovariate(self.environment.parsed_options.pace)
