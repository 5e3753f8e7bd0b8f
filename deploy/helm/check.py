#!/usr/bin/env python3
"""Lints the chart, renders it with several values, and holds every object against the
schemas of Kubernetes. Needs no cluster and no network:

    python3 -m venv /tmp/helm && /tmp/helm/bin/pip install helm-python-sdk kubernetes-validate pyyaml
    /tmp/helm/bin/python deploy/helm/check.py [--crds FILE...] [--kubernetes VERSION]

helm-python-sdk is Helm's own Go library; kubernetes-validate brings the schemas. Objects of
KEDA are held against the CRDs that --crds names, else only counted.
"""

import argparse
import pathlib
import sys

import helm_python
import jsonschema
import kubernetes_validate
import yaml

CHART = pathlib.Path(__file__).parent / "cakes"
SECURE = {
    "coordinatorPkiSecret": "cakes-coordinator",
    "requireIdentity": True,
    "workerCertSecret": "cakes-worker-certs",
    "workerTokenSecret": "cakes-worker-tokens",
}
# Name, values, and the kinds that must come of them.
CASES = [
    ("as it is", {}, {"Deployment": 2, "Service": 1, "PodDisruptionBudget": 1, "NetworkPolicy": 2,
                      "PersistentVolumeClaim": 1}),
    ("everything", {
        "image": {"registry": "registry.example.org/lab", "tag": "1", "pullSecrets": ["pull"]},
        "artifacts": {"url": "s3://cakes/lab", "secretName": "bucket"},
        "security": SECURE,
        "keda": {"enabled": True, "maxReplicas": 16},
        "worker": {"gpus": 4, "dataClaim": "data", "runtimeClassName": "nvidia",
                   "nodeSelector": {"gpu": "a100"}, "labels": {"gpu": "a100", "site": "basel"}, "env": {"CAKES_LOG_FORMAT": "json"},
                   "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists"}]},
        "coordinator": {"replicas": 3, "env": {"CAKES_LOG_FORMAT": "json"}},
        "networkPolicy": {"clients": [{"namespaceSelector": {"matchLabels": {"team": "a"}}}]},
    }, {"Deployment": 1, "StatefulSet": 1, "Service": 1, "PodDisruptionBudget": 1, "NetworkPolicy": 2,
        "ScaledObject": 1, "TriggerAuthentication": 1}),
    ("the least", {
        "artifacts": {"existingClaim": "store"},
        "coordinator": {"replicas": 1, "web": False},
        "worker": {"gpus": 0},
        "networkPolicy": {"enabled": False},
    }, {"Deployment": 2, "Service": 1}),
]
REFUSED = [{"worker": {"drainSeconds": 1}}, {"worker": {"labels": {"gpu": "a,b=c"}}}, {"artifacts": {"url": "gs://no"}}, {"typo": 1}]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--crds", nargs="*", default=[], type=pathlib.Path)
    parser.add_argument("--kubernetes", default="1.31")
    arguments = parser.parse_args()
    crds = {crd["spec"]["names"]["kind"]: crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
            for file in arguments.crds for crd in yaml.safe_load_all(file.read_text())}
    chart = helm_python.Chart.load(str(CHART))
    report = helm_python.lint(str(CHART), strict=True)
    worst = [message for message in report["messages"] or [] if message["severity"] > 1]
    if worst or report["errors"]:
        sys.exit(f"lint: {worst} {report['errors']}")
    print("lint: nothing above a remark")
    for name, values, expected in CASES:
        found: dict[str, int] = {}
        for text in render(chart, values):
            for thing in filter(None, yaml.safe_load_all(text)):
                check(thing, arguments.kubernetes, crds)
                found[thing["kind"]] = found.get(thing["kind"], 0) + 1
        if found != expected:
            sys.exit(f"{name}: {found}, not {expected}")
        print(f"{name}: {sum(found.values())} objects hold: {found}")
    for values in REFUSED:
        try:
            render(chart, values)
        except Exception as error:  # noqa: BLE001: whatever it is, it was refused
            print(f"refused, as it should be: {values}: {str(error).splitlines()[-1][:100]}")
        else:
            sys.exit(f"taken, but should be refused: {values}")


def render(chart, values: dict) -> list[str]:
    rendered = chart.render(values, name="lab", namespace="research")
    return [text for path, text in rendered.items() if not path.endswith((".txt", ".tpl"))]


def check(thing: dict, version: str, crds: dict) -> None:
    if thing["apiVersion"].startswith("keda.sh/"):
        if thing["kind"] in crds:
            jsonschema.validate(thing, crds[thing["kind"]])
        return
    kubernetes_validate.validate(thing, version, strict=True)


if __name__ == "__main__":
    main()
