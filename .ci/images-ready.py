#!/usr/bin/env python3
"""Starts each service of the running stack three times, and says how long after the start of its process it is ready.

    images-ready.py SERVICE...

Its dependencies are up all the while. /readyz of the admin address is asked, on the network `telemetry`, which a process of
this machine reaches. Fails where the middle one of the three is over a second.
"""
import http.client
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone

LIMIT_S, PATIENCE_S = 1.0, 30


def docker(*arguments):
    return subprocess.run(["docker", *arguments], check=True, capture_output=True, text=True).stdout.strip()


def is_ready(address):
    connection = http.client.HTTPConnection(address, 9080, timeout=2)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def start(container):
    """Seconds from the start of its process until it is ready."""
    docker("stop", container)
    docker("start", container)
    networks = "{{range $name, $network := .NetworkSettings.Networks}}{{$name}} {{$network.IPAddress}}\n{{end}}"
    addresses = dict(line.split() for line in docker("inspect", "--format", networks, container).splitlines() if line.strip())
    address = next(address for name, address in addresses.items() if name.endswith("_telemetry"))
    until = time.time() + PATIENCE_S
    while not is_ready(address):
        if time.time() > until:
            sys.exit(f"{container} is not ready after {PATIENCE_S} s")
        time.sleep(0.005)
    now = time.time()
    began = docker("inspect", "--format", "{{.State.StartedAt}}", container)
    return now - datetime.strptime(began[:26].rstrip("Z"), "%Y-%m-%dT%H:%M:%S.%f").replace(tzinfo=timezone.utc).timestamp()


slow = []
for service in sys.argv[1:]:
    container = docker("compose", "ps", "--quiet", service).splitlines()[0]
    took = sorted(start(container) for _ in range(3))
    print(f"    {service} is ready {', '.join(f'{1000 * seconds:.0f}' for seconds in took)} ms after its start")
    if statistics.median(took) > LIMIT_S:
        slow.append(service)
if slow:
    sys.exit(f"over {LIMIT_S} s: {' '.join(slow)}")
