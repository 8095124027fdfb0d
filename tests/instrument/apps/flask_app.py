"""A Flask application."""

from flask import Flask

app = Flask(__name__)


@app.get("/users/<int:user_id>")
def user(user_id):
    return f"hello {user_id}"


@app.get("/fail")
def fail():
    raise RuntimeError("on purpose")


@app.get("/stream")
def stream():
    return (b"part " for _ in range(3))


if __name__ == "__main__":
    import sys

    app.run(port=int(sys.argv[1]))
