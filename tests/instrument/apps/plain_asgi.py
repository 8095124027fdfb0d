"""An ASGI application without a framework; as an instance of a class, because most real ones are."""


class Application:
    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} here")
        path = scope["path"]
        if path == "/fail":
            raise RuntimeError("on purpose")
        if path.startswith("/users/"):
            await answer(send, 200, b"hello " + path[7:].encode())
        elif path == "/stream":
            await answer(send, 200, b"part ", b"part ", b"part ")
        else:
            await answer(send, 404, b"nothing")


async def answer(send, status, *parts):
    headers = [(b"content-type", b"text/plain")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await send({"type": "http.response.body", "body": part, "more_body": True})
    await send({"type": "http.response.body"})


app = Application()
