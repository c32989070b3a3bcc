#!/usr/bin/env python3
"""Checks the boards: by themselves, and against the Prometheus, Tempo and Grafana of a run.

    check.py                                  each board parses, ids and places are unique, sources are known, and it
                                              asks for nothing that docs/metrics.md does not list
    check.py --prometheus URL                 every query is asked over the last 15 minutes; none is empty or all NaN
             [--tempo URL --message ID]       every trace search of a panel or a link is asked, and finds a trace
                                              (ID stands for the message in the box)
             [--happened PANEL...]            what is rare and did happen in this run: these panels (title, refId) show it
             [--grafana URL]                  Grafana has loaded every board
             [--exposed]                      every metric of ours in Prometheus is listed, with these labels

A query that ends in `or vector(0)` asks for what a good run does not have: without that end it may be empty, and is
named, unless --happened has its title. A search for what took long is asked without the time, since nothing need have
been slow; each term has to be one of TraceQL's. Python's standard library only. The last line is `N passed, M failed`.
"""
import argparse
import json
import math
import pathlib
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
SOURCES = {"prometheus", "tempo", "loki"}  # the uids that grafana/otel-lgtm gives them
RARE = " or vector(0)"
OURS = ("tidings_", "http_server_request", "messaging_", "otel_sdk_")
OF_ALL = {"__name__", "instance", "job", "le", "otel_scope_name", "otel_scope_version", "otel_scope_schema_url"}
passed, failed = 0, []


def check(what, good, why=""):
    global passed
    if good:
        passed += 1
    else:
        failed.append(what)
        print(f"FAILED {what}{': ' + why if why else ''}")


def ask(url, **query):
    with urllib.request.urlopen(f"{url}?{urllib.parse.urlencode(query)}", timeout=20) as answer:
        return json.load(answer)


def listed():
    """The metrics of docs/metrics.md: their names in Prometheus and their labels."""
    rows = {}
    for line in (HERE.parent.parent / "docs/metrics.md").read_text().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
            rows[cells[1]] = {label.strip().replace(".", "_") for label in cells[4].split(",") if label.strip()}
    return rows


def base(name):
    return re.sub(r"_(bucket|sum|count)$", "", name)


def panels(board):
    for panel in board["panels"]:
        yield panel
        yield from panel.get("panels", [])


def targets(board):
    for panel in panels(board):
        for target in panel.get("targets", []):
            yield panel, target


def by_itself(name, board, page):
    flat = list(panels(board))
    ids = [panel["id"] for panel in flat]
    check(f"{name}: panel ids are unique", len(ids) == len(set(ids)))
    places = set()
    clear = True
    for panel in flat:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        clear = clear and at["x"] + at["w"] <= 24 and not cells & places
        places |= cells
    check(f"{name}: no panel lies over another or past the edge", clear)
    for panel, target in targets(board):
        where = f"{name}: {panel['title']} {target['refId']}"
        check(f"{where}: its source is known", target["datasource"]["uid"] in SOURCES)
        for word in re.findall(r"[a-z_][a-z0-9_]*", target.get("expr", "")):
            if word.startswith(OURS):
                check(f"{where}: {word} is in docs/metrics.md", base(word) in page)
    for panel in flat:
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", []):
            text = urllib.parse.unquote(re.sub(r"\$\{__(from|to)\}", "0", link["url"]))
            panes = urllib.parse.parse_qs(urllib.parse.urlsplit(link["url"]).query).get("panes", ["?"])[0]
            try:
                queries = [query["query"] for pane in json.loads(panes).values() for query in pane["queries"]]
            except ValueError:
                queries = []
            check(f"{name}: {panel['title']}: the link {link['title']!r} holds a query", bool(queries), text)


def filled(expr):
    for name, value in {"$__rate_interval": "1m", "$__interval": "15s", "$__range": "15m"}.items():
        expr = expr.replace(name, value)
    return expr


def answers(prometheus, expr, end):
    """How many finite values Prometheus has for a query over the last 15 minutes."""
    data = ask(f"{prometheus}/api/v1/query_range", query=filled(expr), start=end - 900, end=end, step=5)["data"]
    return sum(math.isfinite(float(value)) for series in data["result"] for _, value in series["values"])


def with_prometheus(name, board, prometheus, happened, met):
    end = time.time()
    for panel, target in targets(board):
        expr = target.get("expr")
        if not expr:
            continue
        where = f"{name}: {panel['title']} {target['refId']}"
        try:
            check(f"{where} has data", answers(prometheus, expr, end) > 0, filled(expr))
            if expr.endswith(RARE):
                there = answers(prometheus, expr.removesuffix(RARE), end) > 0
                if where.split(": ", 1)[1] in happened:
                    met.add(where.split(": ", 1)[1])
                    check(f"{where} shows what happened", there, filled(expr))
                elif not there:
                    print(f"   it did not happen in this run: {where}")
        except urllib.error.HTTPError as error:
            check(f"{where} is a query", False, f"{filled(expr)}: {error.read().decode()}")


ATTRIBUTE = r"(?:resource|span)\.[a-z][a-z0-9_.]*"
TEXT = r'"[^"]*"'
TERM = re.compile(
    rf"(?:name|rootName|rootServiceName|{ATTRIBUTE}) ?(?:=~|!~|!=|=) ?{TEXT}"
    r"|status ?!?= ?(?:error|ok|unset)|kind ?!?= ?(?:server|client|producer|consumer|internal)"
    r"|(?:duration|traceDuration) ?[<>]=? ?[0-9]+(?:ns|us|ms|s|m|h)"
)


def searches(board):
    """Title and TraceQL of every panel and link."""
    for panel, target in targets(board):
        if target.get("queryType") == "traceql":
            yield panel["title"], target["query"]
    for panel in panels(board):
        for link in panel.get("fieldConfig", {}).get("defaults", {}).get("links", []):
            panes = urllib.parse.parse_qs(urllib.parse.urlsplit(link["url"]).query).get("panes", ["{}"])[0]
            for pane in json.loads(panes).values():
                for query in pane["queries"]:
                    yield f"{panel['title']}, link {link['title']!r}", query["query"]


def terms_of(query):
    braces = re.fullmatch(r"\s*\{(.*)\}\s*", query)
    return [term.strip() for term in braces[1].split("&&")] if braces else []


def with_tempo(name, board, tempo, message):
    asked_for = {query: title for title, query in searches(board)}
    for query, title in asked_for.items():
        query = query.replace("$message_id", message)
        where = f"{name}: {title}"
        terms = terms_of(query)
        check(f"{where} is TraceQL", bool(terms) and all(TERM.fullmatch(term) for term in terms), query)
        root = [term.split('"')[1] for term in terms if term.startswith("rootServiceName")]
        asked = [term for term in terms if not term.startswith(("duration", "traceDuration", "rootServiceName"))]
        found = ask(f"{tempo}/api/search", q="{ " + " && ".join(asked) + " }", limit=1000).get("traces", [])
        found = [trace for trace in found if not root or trace["rootServiceName"] == root[0]]
        check(f"{where} finds a trace", bool(found), query)


def with_grafana(names, grafana):
    loaded = {entry["uid"] for entry in ask(f"{grafana}/api/search", type="dash-db", limit=1000)}
    for uid in names:
        check(f"Grafana has loaded {uid}", uid in loaded, str(sorted(loaded)))


def is_listed(prometheus, page):
    end = time.time()
    for pattern in OURS:
        rows = ask(f"{prometheus}/api/v1/series", **{"match[]": f'{{__name__=~"{pattern}.*"}}', "start": end - 900, "end": end})["data"]
        seen = {}
        for row in rows:
            seen.setdefault(base(row["__name__"]), set()).update(set(row) - OF_ALL)
        for metric, labels in sorted(seen.items()):
            listed_labels = page.get(metric, {"nothing"})
            all_of, any_of = {label for label in listed_labels if not label.endswith("?")}, {label.rstrip("?") for label in listed_labels}
            check(f"{metric} is in docs/metrics.md with its labels", all_of <= labels <= any_of, f"has {sorted(labels)}, the page says {sorted(listed_labels)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("prometheus", "tempo", "grafana"):
        parser.add_argument(f"--{option}", metavar="URL")
    parser.add_argument("--message", metavar="ID", default="")
    parser.add_argument("--happened", metavar="PANEL", nargs="*", default=[])
    parser.add_argument("--exposed", action="store_true")
    options = parser.parse_args()
    page = listed()
    uids = []
    met = set()
    for path in sorted((HERE / "boards").glob("*.json")):
        board = json.loads(path.read_text())
        uids.append(board["uid"])
        by_itself(path.name, board, page)
        if options.prometheus:
            with_prometheus(path.name, board, options.prometheus, options.happened, met)
        if options.tempo:
            with_tempo(path.name, board, options.tempo, options.message)
    check("each panel of --happened is on a board", met == set(options.happened) or not options.prometheus, str(set(options.happened) - met))
    check("three boards, each with a uid of its own", len(uids) == len(set(uids)) == 3)
    if options.grafana:
        with_grafana(uids, options.grafana)
    if options.exposed:
        is_listed(options.prometheus, page)
    print(f"boards: {passed} passed, {len(failed)} failed")
    sys.exit(bool(failed))


main()
