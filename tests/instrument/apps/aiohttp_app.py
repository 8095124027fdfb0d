"""An aiohttp application with another one mounted in it; run as a program, it serves itself on the port that it is given."""

import sys

from aiohttp import web


async def user(request):
    return web.Response(text=f"hello {request.match_info['user_id']}")


async def fail(request):
    raise RuntimeError("on purpose")


async def stream(request):
    response = web.StreamResponse()
    await response.prepare(request)
    for _ in range(3):
        await response.write(b"part ")
    await response.write_eof()
    return response


users = web.Application()
users.router.add_get("/{user_id}", user)
app = web.Application()
app.router.add_get("/fail", fail)
app.router.add_get("/stream", stream)
app.add_subapp("/users", users)

if __name__ == "__main__":
    web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]))
