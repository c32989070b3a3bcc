#!/usr/bin/env python3
"""Holds docker-compose.yml and k8s/base to what is promised of them.

    docker compose config --format json | images-hardening.py compose
    kubectl kustomize k8s/base          | images-hardening.py k8s         (needs PyYAML)

Each line that it prints is a promise that is not kept. What an image cannot do is listed below, with the reason beside the
service in docker-compose.yml.
"""
import json
import sys

WRITES_TO_ITS_ROOT = {"rabbitmq", "lgtm"}  # Their images write where they like.
RUNS_AS_ROOT = {"lgtm"}
KEEPS_CAPABILITIES = {"lgtm"}
OURS = {"api", "subscriber", "cdc-watcher", "mailer"}
OPENED = {"api": 8080, "mailpit": 8025, "lgtm": 3000}
LONGEST_DRAIN_S = 25  # TIDINGS_GRACE_S
broken = []


def hold(what, good):
    if not good:
        broken.append(what)


def seconds(text):
    """Of a duration as compose prints it: 1m30s."""
    total, number = 0.0, ""
    for character in text or "0s":
        if character.isdigit() or character == ".":
            number += character
        else:
            total += float(number) * {"h": 3600, "m": 60, "s": 1}[character]
            number = ""
    return total


def compose(config):
    services = config["services"]
    hold("four services of ours, provision, three servers, a mailbox and Grafana", set(services) == OURS | {"provision", "postgres", "rabbitmq", "redis", "mailpit", "lgtm"})
    for name, service in services.items():
        image = service["image"]
        hold(f"{name}: its image has a version", ":" in image and not image.endswith(":latest"))
        hold(f"{name}: its files are read-only", service.get("read_only") or name in WRITES_TO_ITS_ROOT)
        hold(f"{name}: no capabilities", service.get("cap_drop") == ["ALL"] or name in KEEPS_CAPABILITIES)
        hold(f"{name}: no new privileges", "no-new-privileges:true" in service.get("security_opt", []))
        hold(f"{name}: not privileged", not service.get("privileged") and not service.get("cap_add"))
        # Our image's user is numeric by itself, which is looked at where the image is.
        ours = name in OURS | {"provision"}
        hold(f"{name}: not root", ours or name in RUNS_AS_ROOT or service.get("user", "root") not in ("root", "0"))
        hold(f"{name}: its memory is limited", int(service.get("mem_limit", 0)) > 0)
        hold(f"{name}: its log is limited", "max-size" in service.get("logging", {}).get("options", {}))
        check = service.get("healthcheck", {})
        if name == "provision":
            hold("provision: runs once", service.get("restart") == "no" and check.get("disable"))
        else:
            # Ours is of the image: `tidings health`.
            hold(f"{name}: has a health check", not check.get("disable") and (name in OURS or check.get("test")))
            hold(f"{name}: comes back by itself", service.get("restart") == "unless-stopped")
        hold(f"{name}: no start_interval, which old engines refuse", "start_interval" not in check)
        published = service.get("ports", [])
        hold(f"{name}: publishes what people open and no more", [port["target"] for port in published] == ([OPENED[name]] if name in OPENED else []))
        hold(f"{name}: is reached from this machine only", all(port.get("host_ip") == "127.0.0.1" for port in published))
        waits = service.get("depends_on", {})
        if name in OURS:
            hold(f"{name}: its stop is longer than a drain", seconds(service.get("stop_grace_period")) > LONGEST_DRAIN_S)
            hold(f"{name}: starts after what it needs", {"provision", "postgres", "rabbitmq"} <= set(waits))
            hold(f"{name}: lines of log are JSON", service["environment"].get("TIDINGS_LOG_FORMAT") == "json")
        for other, wait in waits.items():
            wanted = "service_completed_successfully" if other == "provision" else "service_healthy"
            hold(f"{name}: waits until {other} is {wanted}", wait["condition"] == wanted)
    hold("postgres: gives up a slot before the disk is full", any("max_slot_wal_keep_size=" in word for word in services["postgres"]["command"]))
    hold("postgres: writes what is needed for logical replication", "-cwal_level=logical" in services["postgres"]["command"])
    hold("data lies in named volumes", {"postgres", "rabbitmq", "lgtm"} <= set(config["volumes"]))
    # Passwords that everybody knows are those of servers that nobody outside reaches.
    for name in ("postgres", "rabbitmq", "redis"):
        for network in services[name]["networks"]:
            hold(f"{name}: its network {network} leads nowhere else", config["networks"][network].get("internal"))


def k8s(objects):
    by_kind = {}
    for entry in objects:
        by_kind.setdefault(entry["kind"], {})[entry["metadata"]["name"]] = entry
    deployments = by_kind["Deployment"]
    hold("four deployments", set(deployments) == {f"tidings-{name}" for name in OURS})
    hold("one job provisions", len(by_kind["Job"]) == 1)
    budgets = {tuple(sorted(budget["spec"]["selector"]["matchLabels"].items())) for budget in by_kind["PodDisruptionBudget"].values()}
    templates = {name: entry["spec"]["template"] for kind in ("Deployment", "Job") for name, entry in by_kind[kind].items()}
    for name, template in templates.items():
        pod = template["spec"]
        context = pod.get("securityContext", {})
        hold(f"{name}: a numeric user that is not root", context.get("runAsNonRoot") and context.get("runAsUser", 0) > 0)
        hold(f"{name}: the runtime's seccomp profile", context.get("seccompProfile", {}).get("type") == "RuntimeDefault")
        hold(f"{name}: no token of the cluster", pod.get("automountServiceAccountToken") is False)
        for container in pod["containers"]:
            own = container.get("securityContext", {})
            hold(f"{name}: no escalation", own.get("allowPrivilegeEscalation") is False)
            hold(f"{name}: no capabilities", own.get("capabilities", {}).get("drop") == ["ALL"] and not own["capabilities"].get("add"))
            hold(f"{name}: its files are read-only", own.get("readOnlyRootFilesystem") is True)
            resources = container.get("resources", {})
            hold(f"{name}: asks for processor and memory, and memory is limited", {"cpu", "memory"} <= set(resources.get("requests", {})) and "memory" in resources.get("limits", {}))
            hold(f"{name}: its image has a version", ":" in container["image"] and not container["image"].endswith(":latest"))
            held = [entry["name"] for entry in container.get("env", []) if "value" in entry and any(word in entry["name"] for word in ("KEY", "URL", "SECRET", "PASSWORD"))]
            hold(f"{name}: secrets by reference {held}", not held and any("secretRef" in source for source in container.get("envFrom", [])))
    for name, entry in deployments.items():
        pod = entry["spec"]["template"]["spec"]
        labels = entry["spec"]["template"]["metadata"]["labels"]
        (container,) = pod["containers"]
        ports = {port["name"] for port in container["ports"]}
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            hold(f"{name}: {probe}", container.get(probe, {}).get("httpGet", {}).get("port") in ports)
        hold(f"{name}: ready is another question than alive", container["readinessProbe"]["httpGet"]["path"] != container["livenessProbe"]["httpGet"]["path"])
        hold(f"{name}: a stop is longer than a drain", pod.get("terminationGracePeriodSeconds", 30) > LONGEST_DRAIN_S + 5)
        spread = {constraint["topologyKey"] for constraint in pod.get("topologySpreadConstraints", [])}
        hold(f"{name}: spread over nodes and zones", {"kubernetes.io/hostname", "topology.kubernetes.io/zone"} <= spread)
        hold(f"{name}: a budget for disruptions", any(set(budget) <= set(labels.items()) for budget in budgets))
        hold(f"{name}: runs itself", container["args"] == ["up", name.removeprefix("tidings-")])
    policies = by_kind["NetworkPolicy"]
    hold("all that is not allowed is denied", any(set(policy["spec"].get("policyTypes", [])) == {"Ingress", "Egress"} and not policy["spec"].get("ingress") and not policy["spec"].get("egress") for policy in policies.values()))
    # Who may speak with what: the arrows of the topology, and no more.
    reach = {}
    for policy in policies.values():
        selector = policy["spec"]["podSelector"]
        chosen = [label for labels in [selector.get("matchLabels", {})] for key, label in labels.items() if key.endswith("/component")]
        for expression in selector.get("matchExpressions", []):
            if expression["key"].endswith("/component"):
                chosen += expression["values"]
        for rule in policy["spec"].get("egress", []):
            hold(f"{policy['metadata']['name']}: names whom and by which port", rule.get("to") and rule.get("ports"))
            for peer in rule.get("to", []):
                server = peer.get("podSelector", {}).get("matchLabels", {}).get("tidings/serves")
                if server:
                    reach.setdefault(server, set()).update(chosen)
    wanted = {"bus": OURS | {"provision"}, "store": OURS | {"provision"}, "limits": {"api"}, "mail": {"mailer"}, "telemetry": OURS}
    hold(f"the arrows are the topology's: {({name: sorted(who) for name, who in reach.items()})}", reach == wanted)


match sys.argv[1:]:
    case ["compose"]:
        compose(json.load(sys.stdin))
    case ["k8s"]:
        import yaml

        k8s([entry for entry in yaml.safe_load_all(sys.stdin) if entry])
    case _:
        sys.exit(__doc__)
print("\n".join(broken) or "every promise is kept")
sys.exit(bool(broken))
