"""A ramp: evenly more users, a while at the top, evenly fewer.

    locust -f hello.py,shapes/ramp.py --host http://127.0.0.1:8000 --headless --ramp-users 1000 --ramp-seconds 60
"""

from __future__ import annotations

from locust import LoadTestShape, events


@events.init_command_line_parser.add_listener
def add_options(parser):
    def add(name, kind, default, text):
        variable = f"SCENARIO_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=f"{text} ({default})")

    add("ramp-users", int, 1000, "ramp: users at the top")
    add("ramp-seconds", float, 60.0, "ramp: how long the way up takes, and the way down")
    add("hold-seconds", float, 30.0, "ramp: how long it stays at the top")


def users_at(seconds, users, ramp_seconds, hold_seconds):
    """Users, and how many of them may start in a second: all that are due. None once it is over."""
    left = 2 * ramp_seconds + hold_seconds - seconds
    if left <= 0:
        return None
    share = min(1.0, seconds / ramp_seconds, left / ramp_seconds) if ramp_seconds else 1.0
    return max(1, round(users * share)), users


class Ramp(LoadTestShape):
    def tick(self):
        options = self.runner.environment.parsed_options
        return users_at(self.get_run_time(), options.ramp_users, options.ramp_seconds, options.hold_seconds)
