"""Headers in and out: what callers of every kind may send, and what callees of every kind can read."""

from __future__ import annotations

from types import SimpleNamespace
from urllib.parse import unquote, unquote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoinstr.model import DEBUG, FIREHOSE, RANDOM, SAMPLED, STARTED, Resource, SpanContext, SpanData
from autoinstr.propagate import (
    FORMATS,
    MAX_BAGGAGE_BYTES,
    MAX_BAGGAGE_ITEMS,
    Propagator,
    asgi_key,
    decode_binary,
    encode_binary,
    environ_key,
    plain,
)
from autoinstr.wire import jaeger

TRACE = 0x4BF92F3577B34DA6A3CE929D0E0E4736
SPAN = 0x00F067AA0BA902B7
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UBER = "4bf92f3577b34da6a3ce929d0e0e4736:00f067aa0ba902b7:0:1"
KINDS = ["plain", "environ", "asgi"]


def read(propagator_formats, headers, kind="plain"):
    """(Context, decoding errors) that headers of lower-case names give in one kind of carrier."""
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    if kind == "asgi":
        propagator = Propagator(propagator_formats, asgi_key)
        context = propagator.extract_asgi([(asgi_key(name), value.encode("latin-1")) for name, value in pairs])
    else:
        key = plain if kind == "plain" else environ_key
        propagator = Propagator(propagator_formats, key)
        carrier: dict[str, object] = {"wsgi.multithread": True, "PATH_INFO": "/"} if kind == "environ" else {}
        for name, value in pairs:
            carrier[key(name)] = f"{carrier[key(name)]},{value}" if key(name) in carrier else value
        context = propagator.extract(carrier)
    return context, propagator.decoding_errors


def ids(context):
    return None if context is None else (context.trace_id, context.span_id, context.flags)


# Jaeger


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (UBER, (TRACE, SPAN, 1)),
        ("100:7f:0:1", (0x100, 0x7F, 1)),
        ("100:7f:100:0", (0x100, 0x7F, 0)),
        ("0000000000000100:000000000000007f:0000000000000000:03", (0x100, 0x7F, SAMPLED | DEBUG)),
        ("1:1:1:9", (1, 1, SAMPLED | FIREHOSE)),
        ("1:1:0:f5", (1, 1, 0xF5)),
        ("4BF92F3577B34DA6A3CE929D0E0E4736:00F067AA0BA902B7:0:1", (TRACE, SPAN, 1)),
        ("100%3A7f%3A0%3A1", (0x100, 0x7F, 1)),
        ("f" * 32 + ":" + "f" * 16 + ":" + "f" * 16 + ":ff", (2**128 - 1, 2**64 - 1, 0xFF)),
    ],
)
def test_uber_trace_id(value, expected, kind):
    """Traces that come from other Jaeger clients, whichever way they pad and escape, would break off here."""
    context, errors = read(["jaeger"], {"uber-trace-id": value}, kind)
    assert expected == ids(context)
    assert context.is_remote
    assert 0 == errors


@pytest.mark.parametrize(
    "value",
    [
        *["", "1", "1:1:1", "1:1:1:1:1", "x:1:1:1", "1:x:1:1", "1:1:x:1", "1:1:1:x", "0:1:1:1", "1:0:1:1"],
        *["1:1:-1:1", "1:1::1", "1:1:1:-1", ":1:1:1", "1::1:1", "1:1:1:", ":::", "0x1:1:1:1", "1_0:1:1:1"],
        *["+1:1:1:1", " 1:1:1:1", "1:1:1:1 ", "1 :1:1:1", "\u0661:1:1:1", "1:1:1:100", "\ud800:1:1:1", "%:1:1:1"],
        *["1" * 33 + ":1:1:1", "1:" + "1" * 17 + ":1:1", "1:1:" + "1" * 17 + ":1", "1:1:1:1\n", "1%00:1:1:1"],
        *["1:1:1:1,1:1:1:1", "1" * 1_000_000, ":" * 1_000_000],
    ],
)
def test_corrupted_uber_trace_id(value):
    """A broken header would break the request, join a wrong trace, or pass unnoticed."""
    assert (None, 1) == read(["jaeger"], {"uber-trace-id": value})


@pytest.mark.parametrize("kind", KINDS)
def test_jaeger_baggage_headers(kind):
    """Baggage from Go, Java (plus for a blank), Python (keeps slashes) and Node (%20) would arrive garbled."""
    headers = {
        "uber-trace-id": UBER,
        "uberctx-one-key": "a+b%2Bc",
        "uberctx-two": "x%20y/z%C3%A9",
        "other": "uberctx-three",
    }
    context, _ = read(["jaeger"], headers, kind)
    assert {"one-key": "a b+c", "two": "x y/z\u00e9"} == context.baggage


def test_jaeger_header_names_in_any_case():
    """OpenTracing carriers hold names as the program wrote them."""
    context = Propagator(["jaeger"]).extract({"uber-trace-id": UBER, "UberCtx-Some_Key": "v"})
    assert {"some_key": "v"} == context.baggage


@pytest.mark.parametrize("kind", KINDS)
def test_jaeger_ad_hoc_baggage(kind):
    """``curl -H 'jaeger-baggage: ...'`` would be ignored; broken members would spoil good ones."""
    headers = {"jaeger-baggage": "k1=v1,  k2 = v%3D ,k3, k4=a=b, =v,k5=a+b"}
    context, errors = read(["jaeger"], headers, kind)
    assert (0, 0, 0) == ids(context)
    assert {"k1": "v1", "k5": "a b"} == context.baggage, "the header is decoded as a whole, so k2 has two equals signs"
    assert context.decision is None, "the sampler is to be asked"
    assert 1 == errors
    context, _ = read(["jaeger"], {"uber-trace-id": UBER, "jaeger-baggage": "k=v", "uberctx-k": "w", "uberctx-l": "x"})
    assert {"k": "w", "l": "x"} == context.baggage


@pytest.mark.parametrize("kind", KINDS)
def test_debug_id_starts_a_trace_but_does_not_change_one(kind):
    """A developer could not force a trace, or would force other people's."""
    context, _ = read(["jaeger"], {"jaeger-debug-id": "my%20id"}, kind)
    assert ((0, 0, 0), "my id") == (ids(context), context.debug_id)
    context, _ = read(["jaeger"], {"jaeger-debug-id": "my id", "uber-trace-id": UBER}, kind)
    assert ((TRACE, SPAN, 1), "") == (ids(context), context.debug_id)
    context, errors = read(["jaeger"], {"jaeger-debug-id": "x" * 10_000, "uber-trace-id": "0:0:0:0"}, kind)
    assert (256, 1) == (len(context.debug_id), errors)


def test_jaeger_headers_that_go_out():
    """Java's client reads lower case only; ids of 64 bits have 16 digits."""
    inject = Propagator(["jaeger"]).inject
    assert [("uber-trace-id", UBER)] == inject(SpanContext(TRACE, SPAN, 1))
    span = SimpleNamespace(
        trace_id=0xABC, span_id=0xDEF, parent_id=0x12, flags=0x0B, trace_state="", baggage={"User-Id": "\u00e9 +,;=/"}
    )
    assert [
        ("uber-trace-id", "0000000000000abc:0000000000000def:12:b"),
        ("uberctx-user-id", "%C3%A9%20%2B%2C%3B%3D/"),
    ] == inject(span)


# W3C Trace Context


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (PARENT, 1),
        (PARENT[:-2] + "00", 0),
        (PARENT[:-2] + "02", RANDOM),
        (PARENT[:-2] + "03", STARTED),
        (PARENT[:-2] + "ff", STARTED),
        (PARENT[:-2] + "08", 0),
        ("cc" + PARENT[2:-2] + "03-what-the-future-will-be-like", STARTED),
        ("cc" + PARENT[2:], 1),
        ("cc" + PARENT[2:] + "-what-the-future-will-be-like", 1),
        ("cc" + PARENT[2:] + "-", 1),
        ("01" + PARENT[2:-2] + "00", 0),
        (" " + PARENT, 1),
        ("\t" + PARENT + " \t", 1),
    ],
)
def test_traceparent(value, flags, kind):
    """Traces from other vendors, or from newer versions of the standard, would break off. (W3C's "random" is not debug.)"""
    context, errors = read(["tracecontext"], {"traceparent": value}, kind)
    assert ((TRACE, SPAN, flags), 0) == (ids(context), errors)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "value",
    [
        "",
        " ",
        "ff" + PARENT[2:],
        "FF" + PARENT[2:],
        "0x" + PARENT[2:],
        ".0" + PARENT[2:],
        "0" + PARENT[2:],
        "000" + PARENT[2:],
        PARENT + "-",
        PARENT + "-01",
        PARENT + ".",
        PARENT + "1",
        "cc" + PARENT[2:] + ".what",
        "cc" + PARENT[2:] + "0",
        "cc" + PARENT[2:-1],
        PARENT.upper(),
        PARENT.replace("a", "A"),
        PARENT.replace("-", "_"),
        PARENT.replace("4bf9", "4b_9"),
        PARENT.replace("4bf9", "+bf9"),
        PARENT.replace("4bf9", "-bf9"),
        PARENT.replace("00f0", "-0f0"),
        PARENT.replace("4bf9", " bf9"),
        PARENT[:-2] + "-1",
        PARENT[:-2] + ".1",
        PARENT[:-2] + "1",
        PARENT[:3] + "0" * 32 + PARENT[35:],
        PARENT[:36] + "0" * 16 + PARENT[52:],
        PARENT[:3] + "." + PARENT[4:],
        "0-0" + PARENT[3:],
        PARENT[:3] + "-" + PARENT[4:35] + "0" + PARENT[36:],
        PARENT[:36] + "-" + PARENT[37:52] + "0" + PARENT[53:],
        PARENT[:52] + "0-1",
        PARENT + "," + PARENT,
        "cc" + PARENT[2:] + "," + PARENT,
        PARENT * 20_000,
    ],
)
def test_invalid_traceparent(value, kind):
    """The W3C suite's invalid headers must start a new trace, without the state of the old one."""
    assert (None, 1) == read(["tracecontext"], {"traceparent": value, "tracestate": "a=1"}, kind)


@pytest.mark.parametrize(
    "value", [PARENT.replace("4", "\u0664"), PARENT[:-1] + "\ud800", None, 7, [], {}, b"\xff" * 55]
)
def test_traceparent_that_is_not_even_ascii(value):
    """int() reads digits of all scripts, and carriers are not typed."""
    propagator = Propagator(["tracecontext"])
    assert propagator.extract({"traceparent": value}) is None
    assert (value is not None) == propagator.decoding_errors


@pytest.mark.parametrize("name", ["trace-parent", "trace.parent", "xtraceparent"])
@pytest.mark.parametrize("kind", ["plain", "asgi"])
def test_headers_of_similar_names_are_not_ours(name, kind):
    """A foreign header would be taken for a trace."""
    assert (None, 0) == read(["tracecontext"], {name: PARENT}, kind)


@pytest.mark.parametrize("kind", KINDS)
def test_two_traceparents_start_a_new_trace(kind):
    """One of two callers would be picked at random."""
    other = PARENT.replace("4", "5")
    headers = [("traceparent", PARENT), ("host", "a"), ("traceparent", other), ("tracestate", "a=1")]
    assert (None, 1) == read(["tracecontext"], headers, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["foo=1"], "foo=1"),
        (["foo=1,bar=2", "rojo=1"], "foo=1,bar=2,rojo=1"),
        ([" foo=1 \t,\tbar=2 "], "foo=1,bar=2"),
        (["foo=1,,bar=2,"], "foo=1,bar=2"),
        (["foo=1", "", "bar=2"], "foo=1,bar=2"),
        ([""], ""),
        (["fw529a3039@dt=FfAx,tenant@system=x"], "fw529a3039@dt=FfAx,tenant@system=x"),
        (["foo@=1,foo@@bar=2,1a-_*/@=3"], "foo@=1,foo@@bar=2,1a-_*/@=3"),
        (["foo= 1"], "foo= 1"),
        (["foo=" + "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in ",=")], ...),
        (["foo=1,foo=2"], "foo=1,foo=2"),
        (["a" * 256 + "=" + "b" * 256], ...),
        ([",".join(f"k{number}=v" for number in range(32))], ...),
        ([",".join("k" * 250 + f"{number:02}=" + "v" * 256 for number in range(32))], ...),
    ],
)
def test_tracestate(values, expected, kind):
    """Other vendors lose their place in the trace when their state is dropped or reordered."""
    headers = [("traceparent", PARENT), *(("tracestate", value) for value in values)]
    context, errors = read(["tracecontext"], headers, kind)
    expected = values[0] if expected is ... else expected
    assert ((TRACE, SPAN, 1), expected, 0) == (ids(context), context.trace_state, errors)
    sent = dict(Propagator(["tracecontext"]).inject(context))
    assert expected == sent.get("tracestate", "")


@pytest.mark.parametrize(
    "value",
    [
        *["foo", "=1", "foo=", "foo= ", "foo=1=2", "@foo=1", "FOO=1", "foo =1", "foo.bar=1", "_foo=1", "foo=1;bar=2,x"],
        *[
            "foo=\u00e9",
            "f\u00f6o=1",
            "foo=a\x00b",
            "foo=a\tb",
            "foo=a\r\nb: c",
            "foo=\ud800",
            "foo\x7f=1",
            "f\ud800=1",
        ],
        *["k" * 257 + "=1", "k=" + "v" * 257, ",".join(f"k{number}=v" for number in range(33)), "," * 100_000],
    ],
)
def test_invalid_tracestate_is_dropped_as_a_whole(value):
    """A broken tracestate must not take the trace with it, nor be passed on."""
    context, errors = read(["tracecontext"], {"traceparent": PARENT, "tracestate": f"good=1,{value}"})
    assert ((TRACE, SPAN, 1), "", 1) == (ids(context), context.trace_state, errors)


def test_tracestate_alone_is_nothing():
    """State without a trace belongs to nobody."""
    assert (None, 0) == read(["tracecontext"], {"tracestate": "a=1"})


def test_traceparent_that_goes_out():
    """Jaeger's debug bit would claim to be W3C's "random"; broken state would break out of its header."""
    inject = Propagator(["tracecontext"]).inject
    assert [("traceparent", PARENT)] == inject(SpanContext(TRACE, SPAN, SAMPLED | DEBUG | FIREHOSE))
    assert [("traceparent", PARENT[:-2] + "00")] == inject(SpanContext(TRACE, SPAN, DEBUG))
    assert [("traceparent", PARENT[:-2] + "02")] == inject(SpanContext(TRACE, SPAN, RANDOM | DEBUG))
    assert [("traceparent", PARENT[:-2] + "03")] == inject(SpanContext(TRACE, SPAN, STARTED | FIREHOSE))
    small = [("traceparent", "00-" + "0" * 31 + "1-" + "0" * 15 + "2-01"), ("tracestate", "a=1")]
    assert small == inject(SpanContext(1, 2, 1, "a=1"))
    for state in ("a=1\r\nx: y", "a=\u00e9", "a=\ud800"):
        assert [("traceparent", PARENT)] == inject(SpanContext(TRACE, SPAN, 1, state))


RANDOM_PARENT = PARENT[:-2] + "03"


@pytest.mark.parametrize("flags", [0, SAMPLED, RANDOM, STARTED])
def test_random_is_never_debug(flags):
    """Bit 1 is "random" for W3C and "debug" for Jaeger and B3: every trace of a new caller would be one for debugging."""
    context = SpanContext(TRACE, SPAN, flags)
    sent = dict(Propagator(FORMATS).inject(context))
    assert (f"{flags & 1:x}", f"{flags & 1 | (flags & RANDOM) >> 7:02x}") == (sent["uber-trace-id"][-1], sent["traceparent"][-2:])
    assert str(flags & 1) == sent["b3"].split("-")[2] == sent["x-b3-sampled"]
    assert "x-b3-flags" not in sent
    assert flags & SAMPLED == decode_binary(encode_binary(context)).flags


@pytest.mark.parametrize("flags", [SAMPLED, STARTED, STARTED | DEBUG])
def test_random_stays_out_of_what_is_sent_to_jaeger(flags):
    """Jaeger has eight flags, and no such one: its interface would show a flag that nobody knows."""
    span = SpanData("work", TRACE, SPAN, flags=flags, start_ns=1, end_ns=2)
    resource = Resource("shop")
    ((compact, _),), _ = jaeger.CompactEncoder(resource, 65000).encode([span])
    ((binary, _),), _ = jaeger.BinaryEncoder(resource).encode([span])
    assert [flags & 0xFF] * 2 == [
        batch.spans[0].flags for batch in (jaeger.decode_message(compact), jaeger.decode_batch(binary))
    ]


@pytest.mark.parametrize("flags", [0, SAMPLED, RANDOM, STARTED, SAMPLED | DEBUG, STARTED | DEBUG])
@pytest.mark.parametrize("trace_id", [TRACE, 0xABC])
def test_lines_say_what_headers_say(trace_id, flags):
    """The quick way to write the usual headers would say something else than the other."""
    propagator = Propagator(["jaeger", "tracecontext", "baggage"])
    context = SpanContext(trace_id, SPAN, flags)
    expected = "\r\n".join(f"{name}: {value}" for name, value in propagator.inject(context))
    assert expected.encode() == propagator.inject_lines(context)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", [{}, {"tracestate": "a=1"}])
@pytest.mark.parametrize(
    ("uber", "parent", "flags", "errors"),
    [
        (UBER, RANDOM_PARENT, STARTED, 0),
        (UBER, PARENT, SAMPLED, 0),
        (UBER[:-1] + "3", RANDOM_PARENT, STARTED | DEBUG, 0),
        (UBER[:-1] + "0", RANDOM_PARENT, RANDOM, 0),
        (UBER, RANDOM_PARENT.replace("4bf9", "5bf9"), SAMPLED, 0),
        (UBER, RANDOM_PARENT.replace("4bf9", "xbf9"), SAMPLED, 1),
        (UBER, RANDOM_PARENT[:-1], SAMPLED, ...),
        (UBER, "", SAMPLED, ...),
    ],
)
def test_random_flag_beside_a_format_without_one(uber, parent, flags, errors, state, kind):
    """Between our own services, which send both, the flag would be lost; or it would be taken from another trace."""
    headers = {"uber-trace-id": uber, "traceparent": parent, **state}
    context, found = read(["jaeger", "tracecontext", "baggage"], headers, kind)
    assert (TRACE, SPAN, flags) == ids(context)
    assert errors in (found, ...)


def test_random_flag_beside_a_format_without_one_and_odd_carriers():
    """Values that are no text would lose the trace that was read already."""
    for odd in (None, 7, [], ["x"] * 60, {}, b"\xff" * 60, "\u0663" * 60):
        context = Propagator(["jaeger", "tracecontext"]).extract({"uber-trace-id": UBER, "traceparent": odd})
        assert (TRACE, SPAN, SAMPLED) == ids(context)


# W3C Baggage


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("value", "expected", "errors"),
    [
        ("k=v", {"k": "v"}, 0),
        ("k=", {"k": ""}, 0),
        (" k \t=\t v , l = w ", {"k": "v", "l": "w"}, 0),
        ("k=v;ttl=1;flag, l=w", {"k": "v", "l": "w"}, 0),
        ("k=a=b==", {"k": "a=b=="}, 0),
        ("k=%20%C3%A9%25%2C%3B", {"k": " \u00e9%,;"}, 0),
        ("k=%FF", {"k": "\ufffd"}, 0),
        ("k=a+b", {"k": "a+b"}, 0),
        ("k=v,,l=w,", {"k": "v", "l": "w"}, 0),
        ("!#$%&'*+-.^_`|~09azAZ=v", {"!#$%&'*+-.^_`|~09azAZ": "v"}, 0),
        ("k=v,l,m=w", {"k": "v", "m": "w"}, 1),
        ("k=1,k=2", {"k": "1"}, 0),
        ("a b=1,k=v", {"k": "v"}, 1),
        ("k\u00e9=1,=2,k=v", {"k": "v"}, 1),
    ],
)
def test_w3c_baggage(value, expected, errors, kind):
    """Baggage of OpenTelemetry services would be lost or garbled, or one bad member would spoil all."""
    context, found = read(["baggage"], {"baggage": value}, kind)
    assert ((0, 0, 0), expected, errors) == (ids(context), context.baggage, found)


@pytest.mark.parametrize("kind", KINDS)
def test_several_baggage_headers_are_one_list(kind):
    """Proxies add their own header instead of appending to the first."""
    context, _ = read(["baggage"], [("baggage", "a=1"), ("x", "y"), ("baggage", "b=2")], kind)
    assert {"a": "1", "b": "2"} == context.baggage


def test_baggage_that_comes_in_is_bounded():
    """A caller could fill the memory, and every call that the program makes."""
    context, _ = read(["baggage"], {"baggage": ",".join(f"k{number}=v" for number in range(1000))})
    assert [f"k{number}" for number in range(MAX_BAGGAGE_ITEMS)] == list(context.baggage)
    members = [f"k{number}=" + "v" * 1000 for number in range(20)]
    context, _ = read(["baggage"], {"baggage": ",".join(members)})
    assert {f"k{number}": "v" * 1000 for number in range(8)} == context.baggage
    assert (None, 0) == read(["baggage"], {"baggage": "k=" + "v" * 1_000_000})
    exact = "k=" + "v" * (MAX_BAGGAGE_BYTES - 2)
    assert [8190] == [len(value) for value in read(["baggage"], {"baggage": exact})[0].baggage.values()]
    headers = {"uberctx-long": "v" * 9000} | {f"uberctx-k{number}": "v" for number in range(100)}
    context, _ = read(["jaeger"], {"uber-trace-id": UBER, **headers})
    assert [f"k{number}" for number in range(MAX_BAGGAGE_ITEMS)] == list(context.baggage)


def test_baggage_that_goes_out_keeps_to_the_limits():
    """Servers refuse requests whose headers are too large."""
    propagator = Propagator(["baggage"])
    (header,) = propagator.inject(SpanContext(baggage={f"k{number}": "v" for number in range(100)}))
    assert MAX_BAGGAGE_ITEMS == header[1].count("=")
    (header,) = propagator.inject(
        SpanContext(baggage={f"k{number}": "\u00e9" * 300 for number in range(64)} | {"z": "1"})
    )
    assert 8000 - 1800 < len(header[1]) <= MAX_BAGGAGE_BYTES
    assert header[1].endswith(",z=1"), "what still fits behind one that is too large is sent"
    exact = {"k": "v" * (MAX_BAGGAGE_BYTES - 2)}
    assert MAX_BAGGAGE_BYTES == len(propagator.inject(SpanContext(baggage=exact))[0][1])
    assert [] == propagator.inject(SpanContext(baggage={"k": "v" * (MAX_BAGGAGE_BYTES - 1)}))


def test_baggage_cannot_break_out_of_its_header():
    """A value from a user's input could add headers to the program's requests."""
    bad = {"b\r\nc": "2", "d:": "3", "": "4", "\u00e9": "5", 6: "7", "f": None}
    baggage = {"a": "1\r\nx: y", "e": "\ud800", "g": ",;=", **bad}
    values = ["1%0D%0Ax:%20y", "%3F", "%2C%3B%3D"]
    sent = Propagator(["jaeger", "baggage"]).inject(SpanContext(baggage=baggage))
    assert [(f"uberctx-{key}", value) for key, value in zip("aeg", values, strict=True)] == sent[:-1]
    assert ("baggage", ",".join(f"{key}={value}" for key, value in zip("aeg", values, strict=True))) == sent[-1]


# B3

B3_TRACE, B3_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
MULTI = {"x-b3-traceid": B3_TRACE, "x-b3-spanid": B3_SPAN}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("formats", [["b3"], ["b3multi"], ["b3", "b3multi"]])
@pytest.mark.parametrize(
    ("headers", "flags", "is_deferred"),
    [
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-1"}, 1, False),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-0"}, 0, False),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-d"}, 3, False),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-1-05e3ac9a4f6e3b90"}, 1, False),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}"}, 0, True),
        ({**MULTI, "x-b3-sampled": "1"}, 1, False),
        ({**MULTI, "x-b3-sampled": "true"}, 1, False),
        ({**MULTI, "x-b3-sampled": "0"}, 0, False),
        ({**MULTI, "x-b3-sampled": "False"}, 0, False),
        ({**MULTI, "x-b3-flags": "1"}, 3, False),
        ({**MULTI, "x-b3-flags": "1", "x-b3-sampled": "0"}, 3, False),
        ({**MULTI, "x-b3-flags": "0", "x-b3-sampled": "1"}, 1, False),
        ({**MULTI, "x-b3-parentspanid": "05e3ac9a4f6e3b90", "x-b3-sampled": "1"}, 1, False),
        (MULTI, 0, True),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-0", **{key: "7" for key in MULTI}, "x-b3-sampled": "1"}, 0, False),
    ],
)
def test_b3(headers, flags, is_deferred, formats, kind):
    """Traces from Zipkin clients and Envoy would break off, or their sampling decision would be lost."""
    context, errors = read(formats, headers, kind)
    assert ((TRACE, SPAN, flags), is_deferred, None, 0) == (ids(context), context.deferred, context.decision, errors)


def test_b3_64_bit_trace_id():
    """Older Zipkin clients have short ids."""
    assert (0xA3CE929D0E0E4736, SPAN, 1) == ids(read(["b3"], {"b3": f"a3ce929d0e0e4736-{B3_SPAN}-1"})[0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("headers", "flags"),
    [
        ({"b3": "0"}, 0),
        ({"b3": "1"}, 1),
        ({"b3": "d"}, 3),
        ({"x-b3-sampled": "0"}, 0),
        ({"x-b3-sampled": "1"}, 1),
        ({"x-b3-flags": "1"}, 3),
    ],
)
def test_b3_lone_sampling_state(headers, flags, kind):
    """A load balancer that says "do not sample" would be ignored."""
    context, errors = read(["b3"], headers, kind)
    assert ((0, 0, flags), bool(flags), False, 0) == (ids(context), context.decision, context.deferred, errors)


@pytest.mark.parametrize(
    ("headers", "errors"),
    [
        ({"b3": ""}, 1),
        ({"b3": "-"}, 1),
        ({"b3": "2"}, 1),
        ({"b3": "---"}, 1),
        ({"b3": B3_TRACE}, 1),
        ({"b3": f"{B3_TRACE}-"}, 1),
        ({"b3": f"-{B3_SPAN}-1"}, 1),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-"}, 1),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-x"}, 1),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-1-"}, 1),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}-1-1-1"}, 1),
        ({"b3": f"{'0' * 32}-{B3_SPAN}-1"}, 1),
        ({"b3": f"{B3_TRACE}-{'0' * 16}-1"}, 1),
        ({"b3": f"{B3_TRACE}0-{B3_SPAN}-1"}, 1),
        ({"b3": f"{B3_TRACE}-{B3_SPAN}0-1"}, 1),
        ({"b3": f"0x{B3_TRACE[2:]}-{B3_SPAN}-1"}, 1),
        ({"b3": "-" * 1_000_000}, 1),
        ({"x-b3-traceid": B3_TRACE}, 1),
        ({"x-b3-traceid": B3_TRACE, "x-b3-spanid": "g"}, 1),
        ({"x-b3-traceid": "", "x-b3-spanid": ""}, 1),
        ({**MULTI, "x-b3-sampled": "maybe"}, 1),
        ({"x-b3-spanid": B3_SPAN}, 0),
        ({"x-b3-flags": "0"}, 0),
    ],
)
def test_malformed_b3(headers, errors):
    """A broken header would break the request or join a wrong trace."""
    assert (None, errors) == read(["b3"], headers)


def test_malformed_b3_falls_back_to_the_multiple_headers():
    """A proxy's broken single header would hide good ones."""
    assert (TRACE, SPAN, 1) == ids(read(["b3"], {"b3": "x", **MULTI, "x-b3-sampled": "1"})[0])


@pytest.mark.parametrize(("flags", "state"), [(0, "0"), (1, "1"), (3, "d")])
def test_b3_that_goes_out(flags, state):
    """Zipkin servers would sample differently from us; debug implies sampled, which is then not sent."""
    context = SpanContext(TRACE, SPAN, flags)
    assert [("b3", f"{B3_TRACE}-{B3_SPAN}-{state}")] == Propagator(["b3"]).inject(context)
    expected = {**MULTI, **({"x-b3-flags": "1"} if flags == 3 else {"x-b3-sampled": state})}
    assert expected == dict(Propagator(["b3multi"]).inject(context))


def test_b3_that_goes_out_of_a_deferred_context():
    """A proxy would take a decision that was left to the server behind it."""
    context = SpanContext(0xABC, 0xDEF, deferred=True)
    assert [("b3", "0000000000000abc-0000000000000def")] == Propagator(["b3"]).inject(context)
    assert {"x-b3-traceid", "x-b3-spanid"} == set(dict(Propagator(["b3multi"]).inject(context)))


# Several formats together


def test_first_format_with_valid_ids_wins():
    """The user's order of formats would not count, or a broken header would hide a good one."""
    headers = {"uber-trace-id": "1:2:0:0", "traceparent": PARENT, "b3": "3-4-d"}
    assert (1, 2, 0) == ids(read(["jaeger", "tracecontext", "b3"], headers)[0])
    assert (TRACE, SPAN, 1) == ids(read(["tracecontext", "jaeger", "b3"], headers)[0])
    assert (3, 4, 3) == ids(read(["b3", "tracecontext"], headers)[0])
    context, errors = read(["jaeger", "tracecontext"], {**headers, "uber-trace-id": "1:2:3"})
    assert ((TRACE, SPAN, 1), 1) == (ids(context), errors)
    context, _ = read(["b3", "tracecontext"], {**headers, "b3": "0"})
    assert ((TRACE, SPAN, 1), None) == (ids(context), context.decision)


def test_baggage_of_all_formats_is_joined():
    """A fleet that moves from Jaeger to W3C would lose the baggage of one half."""
    headers = {"uber-trace-id": UBER, "uberctx-a": "1", "uberctx-b": "2", "baggage": "b=3,c=4"}
    context, _ = read(["jaeger", "tracecontext", "baggage"], headers)
    assert ({"a": "1", "b": "2", "c": "4"}, (TRACE, SPAN, 1)) == (context.baggage, ids(context))


def test_tracestate_of_the_same_trace_survives_beside_a_preferred_format():
    """A caller that sends both headers would lose the state of other vendors."""
    headers = {"uber-trace-id": UBER, "traceparent": PARENT, "tracestate": "a=1"}
    assert "a=1" == read(["jaeger", "tracecontext"], headers)[0].trace_state
    assert "" == read(["jaeger", "tracecontext"], {**headers, "uber-trace-id": "1:2:0:1"})[0].trace_state


@pytest.mark.parametrize("kind", KINDS)
def test_no_headers_no_context(kind):
    """Each request without a trace would pay for one."""
    assert (None, 0) == read(FORMATS, {"host": "a", "accept": "*/*"}, kind)
    assert (None, 0) == read((), {"uber-trace-id": UBER}, kind)


def test_environ_without_trace_headers_is_not_iterated():
    """Requests without a trace would cost as many steps as there are variables in the environ."""

    class Environ(dict):
        def __iter__(self):
            raise AssertionError("iterated")

        keys = items = values = __iter__

    propagator = Propagator(["jaeger", "tracecontext", "baggage"], environ_key)
    assert propagator.extract(Environ(PATH_INFO="/")) is None
    assert (TRACE, SPAN, 1) == ids(propagator.extract(Environ(HTTP_TRACEPARENT=PARENT)))
    assert 0 == propagator.decoding_errors


def test_asgi_headers_that_can_be_read_only_once_are_left_to_the_application():
    """The application would find no headers."""
    propagator = Propagator(["tracecontext"], asgi_key)
    headers = iter([(b"traceparent", PARENT.encode())])
    assert propagator.extract_asgi(headers) is None
    assert 1 == len(list(headers))
    assert (TRACE, SPAN, 1) == ids(propagator.extract_asgi(((b"traceparent", PARENT.encode()),)))


def test_carrier_of_lists():
    """Carriers such as ``parse_qs`` or Kafka headers hold lists and bytes."""
    propagator = Propagator(["jaeger", "tracecontext"])
    assert (TRACE, SPAN, 1) == ids(propagator.extract({"uber-trace-id": [UBER]}))
    assert (TRACE, SPAN, 1) == ids(propagator.extract({"traceparent": PARENT.encode()}))
    assert propagator.extract({"uber-trace-id": [UBER, UBER]}) is None


def test_keys_that_are_not_text_do_not_cost_the_trace():
    """A middleware that puts an object into the environ would cut the trace."""
    assert (TRACE, SPAN, 1) == ids(Propagator(["jaeger"]).extract({"uber-trace-id": UBER, 7: "x"}))


def test_unknown_format_is_refused():
    """A typing error in the configuration would silently turn propagation off."""
    with pytest.raises(ValueError, match="'w3c'"):
        Propagator(["jaeger", "w3c"])


def test_fields_name_what_may_be_written():
    """A header of the program's own would be sent twice."""
    propagator = Propagator([*FORMATS, "jaeger"])
    context = SpanContext(TRACE, SPAN, 3, "a=1", {"k": "v"})
    sent = {name for name, _ in propagator.inject(context)} | {
        name for name, _ in propagator.inject(SpanContext(1, 1, 1))
    }
    assert {*propagator.fields, "uberctx-k"} == sent
    assert len(propagator.fields) == len(set(propagator.fields))


def test_a_decision_that_still_waits_is_made_before_headers_are_written():
    """A header with flags -1 would be sent to others."""
    span = SimpleNamespace(trace_id=1, span_id=2, flags=-1, trace_state="", baggage=None)
    span.settle = lambda: setattr(span, "flags", 1)
    assert [("uber-trace-id", "0000000000000001:0000000000000002:0:1")] == Propagator(["jaeger"]).inject(span)


def test_nothing_but_baggage_is_sent_without_ids():
    """A trace of zeros would be sent, which others count as an error."""
    assert [] == Propagator(FORMATS).inject(SpanContext(flags=1, trace_state="a=1"))
    assert [] == Propagator(FORMATS).inject(SpanContext(1, 0, 1))


# Anything at all

KEYS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=8)
CONTEXTS = st.builds(
    SpanContext,
    st.integers(1, 2**128 - 1),
    st.integers(1, 2**64 - 1),
    st.sampled_from([0, SAMPLED, SAMPLED | DEBUG]),
    st.sampled_from(["", "a=1", "a=1,b@c=2"]),
    st.none() | st.dictionaries(KEYS, st.text(max_size=20), min_size=1, max_size=5),
    is_remote=st.just(True),
)
HEADER_NAMES = [
    "uber-trace-id",
    "uberctx-a",
    "jaeger-debug-id",
    "jaeger-baggage",
    "traceparent",
    "tracestate",
    "baggage",
]
B3_NAMES = ["b3", "x-b3-traceid", "x-b3-spanid", "x-b3-sampled", "x-b3-flags"]


@given(CONTEXTS, st.lists(st.sampled_from(FORMATS), min_size=1, unique=True), st.sampled_from(KINDS))
def test_what_goes_out_comes_in(context, formats, kind):
    """Two services with autoinstr, configured alike, would not see the same trace."""
    sent = Propagator(formats).inject(context)
    result, errors = read(formats, sent, kind)
    carriers = [name for name in formats if name != "baggage"]
    assert 0 == errors
    if not carriers:
        assert (result.baggage if result else None) == context.baggage
        return
    assert (context.trace_id, context.span_id) == (result.trace_id, result.span_id)
    assert context.flags & SAMPLED == result.flags & SAMPLED
    assert carriers[0] == "tracecontext" or context.flags == result.flags
    assert (context.trace_state if "tracecontext" in formats else "") == result.trace_state
    assert (context.baggage if {"jaeger", "baggage"} & set(formats) else None) == result.baggage
    assert result.is_remote


@given(CONTEXTS)
def test_baggage_is_read_by_plain_percent_decoders(context):
    """Clients that read a plus as a blank, and those that do not, would see different values."""
    sent = Propagator(["jaeger"]).inject(context)[1:]
    values = [value for _, value in sent]
    assert [unquote(value) for value in values] == [unquote_plus(value) for value in values]
    assert list((context.baggage or {}).values()) == [unquote(value) for value in values]


HOSTILE = (
    st.text(max_size=80)
    | st.text("0123456789abcdef:-,=;%+ d", max_size=80)
    | st.binary(max_size=60)
    | st.none()
    | st.integers()
    | st.lists(st.text(max_size=5) | st.none(), max_size=3)
    | st.sampled_from([UBER, PARENT, "a=1", "1"])
)


@given(
    st.dictionaries(st.sampled_from([*HEADER_NAMES, *B3_NAMES, "other"]), HOSTILE),
    st.permutations(FORMATS),
    st.sampled_from([plain, environ_key, asgi_key]),
)
def test_extract_never_raises(headers, formats, key):
    """A request that anybody can send would be answered with an error."""
    propagator = Propagator(formats, key)
    context = propagator.extract({key(name): value for name, value in headers.items()})
    if context is not None and context.trace_id:
        assert 0 < context.trace_id < 2**128
        assert 0 < context.span_id < 2**64
        assert 0 <= context.flags <= 0xFF
        assert propagator.inject(context)


@given(st.lists(st.tuples(st.sampled_from([asgi_key(name) for name in HEADER_NAMES]), HOSTILE)) | HOSTILE)
def test_extract_asgi_never_raises(headers):
    """A strange server, or a test with half a scope, would fail."""
    Propagator(FORMATS, asgi_key).extract_asgi(headers)


@pytest.mark.parametrize("carrier", [None, 7, "", [], object(), {"uber-trace-id": object()}])
def test_carriers_that_are_none(carrier):
    """A carrier of a wrong type would break the call that was to be traced."""
    assert Propagator(FORMATS).extract(carrier) is None


@given(
    st.text("0123456789abcdefABCDEF-_+x gG", min_size=55, max_size=55)
    | st.from_regex(r"\A00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z")
)
def test_traceparent_is_read_exactly(value):
    """What the grammar of W3C forbids would be accepted, or the other way round."""
    import re

    match = re.fullmatch(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})", value)
    is_valid = match and match[1] != "ff" and int(match[2], 16) and int(match[3], 16)
    expected = None
    if is_valid:
        flags = int(match[4], 16)
        expected = (int(match[2], 16), int(match[3], 16), flags & 1 | (RANDOM if flags & 2 else 0))
    assert expected == ids(read(["tracecontext"], {"traceparent": value})[0])


# Binary


def test_binary_form():
    """Messages of Go services (OpenTracing's binary carrier) could not be read."""
    span = SimpleNamespace(trace_id=TRACE, span_id=SPAN, parent_id=5, flags=3, baggage={"k": "v\u00e9"})
    data = encode_binary(span)
    head = bytes.fromhex("4bf92f3577b34da6a3ce929d0e0e473600f067aa0ba902b7000000000000000503")
    assert head + b"\0\0\0\1" + b"\0\0\0\1k" + b"\0\0\0\3v\xc3\xa9" == data
    assert SpanContext(TRACE, SPAN, 3, baggage={"k": "v\u00e9"}, is_remote=True) == decode_binary(data)
    assert 37 == len(encode_binary(SpanContext(1, 2, 1)))


@given(CONTEXTS)
def test_binary_round_trip(context):
    """Our own binary carrier would lose something, or a truncated one would be half read."""
    data = encode_binary(context)
    result = decode_binary(data)
    assert (context.trace_id, context.span_id, context.flags) == ids(result)
    assert context.baggage == result.baggage
    for length in {0, 1, 36, len(data) - 1}:
        with pytest.raises(ValueError, match="short"):
            decode_binary(data[:length])


@pytest.mark.parametrize(
    "tail",
    [
        b"\0\0\0\xb5",
        b"\xff\xff\xff\xff",
        b"\0\0\0\1\xff\xff\xff\xff",
        b"\0\0\0\1\x7f\xff\xff\xff",
        b"\0\0\0\1\0\0\0\1\xff\0\0\0\0",
        b"\0\0\0\1\0\0\0\1k\0\0\x10\0" + b"v" * 4096,
    ],
)
def test_binary_that_is_broken_or_too_large(tail):
    """A message could allocate without bound, or raise something that nobody catches."""
    with pytest.raises(ValueError, match="."):
        decode_binary(bytes(33) + tail)


def test_binary_keeps_to_what_readers_accept():
    """Go's reader refuses the whole context when there is too much baggage."""
    baggage = {"long": "v" * 4096} | {f"k{number}": "v" for number in range(300)}
    result = decode_binary(encode_binary(SpanContext(1, 2, 1, baggage=baggage)))
    assert 180 == len(result.baggage)
