"""A third party that takes payments: not ours, so it runs without the agent. Usage: payment.py PORT"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LIMIT = 1000


class Payment(BaseHTTPRequestHandler):
    def do_POST(self):
        amount = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["amount"]
        paid = amount <= LIMIT
        body = json.dumps({"paid": paid}).encode()
        self.send_response(200 if paid else 402)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Payment).serve_forever()
