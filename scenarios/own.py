"""One path of any service, again and again.

    locust -f own.py --host http://127.0.0.1:8000 --path '/search?q=tea'
"""

from __future__ import annotations

from common import Visitor
from locust import events, task


@events.init_command_line_parser.add_listener
def add_option(parser):
    parser.add_argument("--path", default="/", env_var="SCENARIO_PATH", help="own: what to ask for (/)")


class Own(Visitor):
    def __init__(self, environment):
        super().__init__(environment)
        self.path = environment.parsed_options.path
        self.route = self.path.partition("?")[0]

    @task
    def own(self):
        self.ask(self.path, self.route)
