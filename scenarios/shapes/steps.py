"""Steps of concurrency: how far does the service scale?

    locust -f hello.py,shapes/steps.py --host http://127.0.0.1:8000 --headless --steps 1,16,128,1000 --step-seconds 10
"""

from __future__ import annotations

import argparse

from locust import LoadTestShape, events

DEFAULT = "1,4,16,64,128,256,512,1000"


def numbers(text):
    """"1,16,128" as numbers of users."""
    steps = [int(word) for word in text.split(",") if word.strip().isdecimal()]
    if len(steps) != text.count(",") + 1 or min(steps) < 1:
        raise argparse.ArgumentTypeError(f"{text!r}: steps are numbers of users from 1, such as {DEFAULT}")
    return steps


@events.init_command_line_parser.add_listener
def add_options(parser):
    parser.add_argument("--steps", type=numbers, default=DEFAULT, env_var="SCENARIO_STEPS", help=f"users ({DEFAULT})")
    parser.add_argument(
        "--step-seconds", type=float, default=10.0, env_var="SCENARIO_STEP_SECONDS", help="how long each step lasts (10)"
    )


def users_at(seconds, steps, step_seconds):
    """Users, and how many of them may start in a second: all. None once it is over."""
    step = int(seconds / step_seconds)
    return (steps[step], steps[step]) if step < len(steps) else None


class Steps(LoadTestShape):
    def tick(self):
        options = self.runner.environment.parsed_options
        return users_at(self.get_run_time(), options.steps, options.step_seconds)
