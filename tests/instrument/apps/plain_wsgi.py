"""A WSGI application without a framework."""

from wsgiref.simple_server import make_server


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/fail":
        raise RuntimeError("on purpose")
    if path.startswith("/users/"):
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [f"hello {path[7:]}".encode()]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"part " for _ in range(3))
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"nothing"]


def serve(port):
    """By the server of the standard library."""
    make_server("127.0.0.1", port, app).serve_forever()


if __name__ == "__main__":
    import sys

    serve(int(sys.argv[1]))
