#!/usr/bin/env python3
"""Looks up a message in Tempo and holds its trace against what it has to be.

    images-trace.py TEMPO MESSAGE_ID posted|inserted

`posted`: one trace from the POST through all four services. `inserted`: one that begins where the cdc-watcher captured a row
that somebody else wrote. Each span has the parent that is listed, and each is there once.
"""
import base64
import json
import sys
import urllib.parse
import urllib.request

tempo, message, kind = sys.argv[1:]
API, SUBSCRIBER, WATCHER, MAILER = "tidings-api", "tidings-subscriber", "tidings-cdc-watcher", "tidings-mailer"
# Service, span, and the span that is its parent.
FROM_CAPTURE = {
    (WATCHER, "publish tidings-notifications", "capture items"),
    (MAILER, "receive tidings-mail", "publish tidings-notifications"),
    (MAILER, "process tidings-mail", "publish tidings-notifications"),
    (MAILER, "INSERT deliveries", "process tidings-mail"),
    (MAILER, "send mail", "process tidings-mail"),
}
EXPECTED = {
    "posted": FROM_CAPTURE | {
        (API, "POST /v1/topics/{topic}/messages", None),
        (API, "publish tidings-topic-messages", "POST /v1/topics/{topic}/messages"),
        (SUBSCRIBER, "receive tidings-items", "publish tidings-topic-messages"),
        (SUBSCRIBER, "process tidings-items", "publish tidings-topic-messages"),
        (SUBSCRIBER, "INSERT items", "process tidings-items"),
        (WATCHER, "capture items", "process tidings-items"),
    },
    "inserted": FROM_CAPTURE | {(WATCHER, "capture items", None)},
}[kind]


def ask(path, **query):
    with urllib.request.urlopen(f"{tempo}{path}?{urllib.parse.urlencode(query)}", timeout=10) as answer:
        return json.load(answer)


def hexadecimal(text):
    """Ids are base64 in protobuf's JSON and hexadecimal in OTLP's."""
    return text if len(text) in (16, 32) and set(text) <= set("0123456789abcdef") else base64.b64decode(text).hex()


found = {entry["traceID"].zfill(32) for entry in ask("/api/search", q=f'{{ span.messaging.message.id = "{message}" }}', limit=20)["traces"]}
if len(found) != 1:
    sys.exit(f"{len(found)} traces of message {message}: {sorted(found)}")
answer = ask(f"/api/traces/{found.pop()}")
spans = []
for batch in answer.get("batches") or answer["resourceSpans"]:
    service = next(a["value"]["stringValue"] for a in batch["resource"]["attributes"] if a["key"] == "service.name")
    for scope in batch["scopeSpans"]:
        for span in scope["spans"]:
            parent = hexadecimal(span["parentSpanId"]) if span.get("parentSpanId") else None
            spans.append((service, span["name"], hexadecimal(span["spanId"]), parent))
names = {identity: name for _, name, identity, _ in spans}
tree = [(service, name, names.get(parent, "a span that is not in the trace") if parent else None) for service, name, _, parent in spans]
for span in sorted(set(tree) ^ EXPECTED, key=str):
    print("missing" if span in EXPECTED else "unexpected", *span)
if sorted(tree, key=str) != sorted(EXPECTED, key=str):
    sys.exit(f"{len(tree)} spans, {len(EXPECTED)} expected")
print(f"one trace, {len(tree)} spans")
