"""Bursts: calm, burst, calm, burst, ..., calm.

    locust -f hello.py,shapes/burst.py --host http://127.0.0.1:8000 --headless --calm-users 5 --burst-users 200 --bursts 3
"""

from __future__ import annotations

from locust import LoadTestShape, events


@events.init_command_line_parser.add_listener
def add_options(parser):
    def add(name, kind, default, text):
        variable = f"SCENARIO_{name.upper().replace('-', '_')}"
        parser.add_argument(f"--{name}", type=kind, default=default, env_var=variable, help=f"{text} ({default})")

    add("calm-users", int, 5, "bursts: users in between")
    add("burst-users", int, 200, "bursts: users at once")
    add("calm-seconds", float, 10.0, "bursts: how long it is calm")
    add("burst-seconds", float, 5.0, "bursts: how long one lasts")
    add("bursts", int, 3, "bursts: how many")


def users_at(seconds, calm_users, burst_users, calm_seconds, burst_seconds, bursts):
    """Users, and how many of them may start in a second: all. None once it is over."""
    before, within = divmod(seconds, calm_seconds + burst_seconds)
    is_calm = within < calm_seconds
    if before > bursts or (before == bursts and not is_calm):
        return None
    users = calm_users if is_calm else burst_users
    return users, max(users, 1)


class Burst(LoadTestShape):
    def tick(self):
        o = self.runner.environment.parsed_options
        calm_and_burst = o.calm_users, o.burst_users, o.calm_seconds, o.burst_seconds
        return users_at(self.get_run_time(), *calm_and_burst, o.bursts)
