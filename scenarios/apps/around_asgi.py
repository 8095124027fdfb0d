"""What the services on Starlette and FastAPI have around their routes: the count, and the answers when there is none."""

from __future__ import annotations

import answers
from starlette.responses import PlainTextResponse


class Counting:
    """The outermost middleware, so that requests without a route count, too."""

    def __init__(self, app):
        self.app = app

    def __call__(self, scope, receive, send):
        if scope["type"] == "http" and scope["path"] != answers.STATS:
            answers.served.one_more()
        return self.app(scope, receive, send)


async def missing(request, error):
    return PlainTextResponse(answers.MISSING, 404)


async def went_wrong(request, error):
    return PlainTextResponse(answers.ERROR, 500)
