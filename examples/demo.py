"""Runs the shop under the agent and shows a finished trace across all its processes.

Starts a backend, the two services (each as ``python -m autoinstr …``) and the payment service of a third party (bare),
sends requests, and prints the traces of two of them as trees. With ``--keep`` everything runs on until Ctrl-C. Exits
with 1 and says what is missing when a trace does not become complete. Leaves no process behind.
"""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
HOST = "127.0.0.1"
START_SECONDS = 30
TRACE_SECONDS = 20
STOP_SECONDS = 5
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

#: Free by default, but on a developer's machine a Jaeger may run already: then any other port does.
BACKEND_PORTS = {"query": 16686, "sampling": 5778, "agent": 6831}
BACKEND_PORTS |= {"collector": 14268, "otlp": 4318, "otlp-grpc": 4317, "zipkin": 9411, "agent-binary": 6832}

#: What each purchase has to look like: how often each chain of spans, from the root down, must be there.
COMPLETE = Counter(
    {
        "shop server": 1,
        "shop server > shop client": 2,
        "shop server > shop client > stock server": 1,
    }
)


class DemoError(Exception):
    """Why the demo failed, for the reader."""


class Processes:
    """Everything that was started, with its output in files, so that it can be ended and its last words shown."""

    def __init__(self, folder):
        self._folder = Path(folder)
        self._running = {}

    def start(self, name, command, **variables):
        with open(self._folder / f"{name}.log", "wb") as log, signals_wait():
            # A session of its own: Ctrl-C reaches the demo alone, and children of children can be ended with it.
            self._running[name] = subprocess.Popen(
                [sys.executable, *command],
                cwd=HERE,
                env={**clean_environment(), **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def check(self):
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DemoError(f"{name} ended with status {process.returncode}; it said:\n{self._last_words(name)}")

    def stop(self):
        for process in self._running.values():
            signal_group(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        for process in self._running.values():
            try:
                process.wait(max(0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                pass
            # Also when it has ended: something that it started may be left in its group.
            signal_group(process, signal.SIGKILL)
            process.wait()

    def report(self):
        """What the processes wrote, for a reader who has to find out what went wrong."""
        return "\n".join(f"--- {name}\n{self._last_words(name)}" for name in self._running)

    def _last_words(self, name, lines=15):
        text = (self._folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])


def main():
    keep = "--keep" in sys.argv[1:]
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")
    for number in ENDING[1:]:
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    with tempfile.TemporaryDirectory(prefix="autoinstr-demo-") as folder:
        processes = Processes(folder)
        try:
            run(processes, folder, keep)
        except DemoError as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 0 if keep else 130
        finally:
            # A second, impatient Ctrl-C must not leave half of it running.
            for number in ENDING:
                signal.signal(number, signal.SIG_IGN)
            processes.stop()
    return 0


def run(processes, folder, keep):
    backend = start_backend(processes, folder)
    shop = start_shop(processes, backend)
    print()
    purchases = [send(shop, path) for path in ("/", "/buy/teapot", "/buy/yacht", "/buy/unicorn")][1:3]
    print()
    traces = [wait_for_trace(processes, backend, debug_id) for debug_id in purchases]
    for trace_id in traces:
        print(tree(backend, trace_id))
    if keep:
        print(f"To look at: http://{HOST}:{backend['query']}/trace/{traces[0]}")
        print("Running until Ctrl-C.")
        while True:
            processes.check()
            time.sleep(0.5)


def start_backend(processes, folder):
    """The ports of the backend, by name, once it listens."""
    free = {name: port if is_free(port, udp=name.startswith("agent")) else 0 for name, port in BACKEND_PORTS.items()}
    try:
        ports = serve(processes, folder, free)
    except DemoError:
        # Somebody else may have taken one of them in the meantime.
        ports = serve(processes, folder, dict.fromkeys(BACKEND_PORTS, 0))
    announce("backend", ports["query"], "autoinstr serve")
    return ports


def serve(processes, folder, ports):
    ports_file = Path(folder) / "ports.json"
    options = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    # In a folder of its own: the traces of other days are not the demo's business.
    options += ["--data", str(Path(folder) / "backend"), "--ports-file", str(ports_file)]
    processes.start("backend", ["-m", "autoinstr", "serve", "--host", HOST, *options])
    wait_until(ports_file.exists, processes, START_SECONDS, "the backend does not start")
    return json.loads(ports_file.read_text(encoding="utf-8"))


def start_shop(processes, backend):
    """The shop's port, once all three services answer."""
    shop, stock, payment = free_ports(3)
    processes.start("payment", ["payment.py", str(payment)])
    flask = ["flask", "--app", "shop", "run", "--port", str(shop)]
    urls = {"STOCK_URL": f"http://{HOST}:{stock}", "PAYMENT_URL": f"http://{HOST}:{payment}"}
    processes.start("shop", ["-m", "autoinstr", *flask], **urls, **tracing("shop", backend))
    uvicorn = ["uvicorn", "stock:app", "--port", str(stock)]
    processes.start("stock", ["-m", "autoinstr", *uvicorn], **tracing("stock", backend))
    for name, port in (("shop", shop), ("stock", stock), ("payment", payment)):
        wait_until(lambda port=port: listens(port), processes, START_SECONDS, f"{name} does not start")
    announce("shop", shop, "python -m autoinstr flask --app shop run")
    announce("stock", stock, "python -m autoinstr uvicorn stock:app")
    announce("payment", payment, "python payment.py (a third party: no agent)")
    return shop


def tracing(service, backend):
    """All that is said to the agent: the variables that Jaeger's own clients read."""
    return {
        "JAEGER_SERVICE_NAME": service,
        "JAEGER_AGENT_HOST": HOST,
        "JAEGER_AGENT_PORT": str(backend["agent"]),
        "JAEGER_SAMPLER_TYPE": "const",
        "JAEGER_SAMPLER_PARAM": "1",
    }


def send(shop, path):
    """Ask the shop for something. Gives the debug id of the request, by which Jaeger's users find one special trace."""
    debug_id = f"demo-{os.urandom(4).hex()}"
    request = urllib.request.Request(f"http://{HOST}:{shop}{path}", headers={"jaeger-debug-id": debug_id})
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            status, body = response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            status, body = error.code, error.read()
    except OSError as error:
        raise DemoError(f"GET {path}: {error}") from error
    print(f"GET {path:14} {status}  {body.decode(errors='replace').strip()}")
    return debug_id


def wait_for_trace(processes, backend, debug_id):
    """The id of the request's trace, once it is complete."""
    last = []

    def is_complete():
        last[:] = find(backend, debug_id)
        return bool(last) and not COMPLETE - chains(last[0])

    try:
        wait_until(is_complete, processes, TRACE_SECONDS, "the trace is not complete")
        if unexpected := chains(last[0]) - COMPLETE:
            raise DemoError(f"the trace has spans that nobody expects: {listed(unexpected)}")
    except DemoError as error:
        found = listed(chains(last[0])) if last else "nothing"
        raise DemoError(f"{error}\nexpected: {listed(COMPLETE)}\nreceived: {found}\n{processes.report()}") from None
    return last[0]["traceID"]


def find(backend, debug_id):
    tags = urllib.parse.quote(json.dumps({"jaeger-debug-id": debug_id}))
    return json.loads(get(backend, f"/api/traces?service=shop&tags={tags}"))["data"]


def chains(trace):
    """How often each chain of spans, as ``service kind > service kind``, is in a trace in Jaeger's JSON."""
    spans = {span["spanID"]: span for span in trace["spans"]}
    return Counter(" > ".join(ancestry(span, spans, trace["processes"])) for span in spans.values())


def ancestry(span, spans, processes):
    kind = next((tag["value"] for tag in span["tags"] if tag["key"] == "span.kind"), "internal")
    own = f"{processes[span['processID']]['serviceName']} {kind}"
    parents = [reference["spanID"] for reference in span["references"] if reference["refType"] == "CHILD_OF"]
    if not parents:
        return [own]
    if parents[0] not in spans:
        return ["(missing)", own]
    return [*ancestry(spans[parents[0]], spans, processes), own]


def listed(counts):
    return ", ".join(f"{number} x {chain}" for chain, number in sorted(counts.items()))


def tree(backend, trace_id):
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size((110, 24)).columns
    return get(backend, f"/trees/{trace_id}?width={width}&colour={str(colour).lower()}")


def get(backend, path):
    with urllib.request.urlopen(f"http://{HOST}:{backend['query']}{path}", timeout=10) as response:
        return response.read().decode("utf-8")


def wait_until(condition, processes, seconds, complaint):
    deadline = time.monotonic() + seconds
    while not condition():
        processes.check()
        if time.monotonic() > deadline:
            raise DemoError(f"{complaint} ({seconds} s waited)")
        time.sleep(0.1)


@contextmanager
def signals_wait():
    """No end within the block: a process that is just being started is not known yet, and would be left behind."""
    came = []
    before = {number: signal.signal(number, lambda number, _: came.append(number)) for number in ENDING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    for number in came:
        signal.raise_signal(number)


def clean_environment():
    """As in an activated environment, and without the reader's tracing variables, which would change what is shown."""
    others = ("JAEGER_", "OTEL_", "AUTOINSTR_", "FLASK_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    # Not resolved: the interpreter of a virtual environment is a link to one outside, where flask may be another.
    commands = os.path.dirname(os.path.abspath(sys.executable))
    return {**kept, "PATH": f"{commands}{os.pathsep}{kept.get('PATH', os.defpath)}"}


def free_ports(count):
    """Below those that systems give to outgoing connections, one of which could take the port before the service."""
    candidates = random.sample(range(20_000, 32_000), 200)
    return [port for port in candidates if is_free(port)][:count]


def is_free(port, *, udp=False):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM) as sock:
        if not udp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((HOST, port))
        except OSError:
            return False
    return True


def listens(port):
    try:
        socket.create_connection((HOST, port), timeout=1).close()
    except OSError:
        return False
    return True


def signal_group(process, number):
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        pass


def announce(name, port, command):
    print(f"{name:8} http://{HOST}:{port:<6} {command}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
