"""Run a training on several Kubernetes nodes: make a JobSet of its command, follow it, delete it.

For ``launch.across``, which puts it before the training's own command::

    across = ["python", "-m", "qwenlong.tasks.jobset", "--manifest", "infra/kubernetes/jobset.yaml"]

The manifest is a JobSet of one replicated job and says all that differs between clusters: image, GPUs, volumes,
secrets. This program adds the command, the number of machines and where they meet. It needs the extra ``kubernetes``,
and finds the cluster as ``kubectl`` does, or by the pod's service account.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException
from urllib3.exceptions import HTTPError

from qwenlong.tasks.process import FIXED_VARIABLES

PLACE = {"group": "jobset.x-k8s.io", "version": "v1alpha2", "plural": "jobsets"}
PORT = 29500
_POLL_SECONDS = 2.0
_AWAY_SECONDS = 600
"""How long the API server may be away while a training runs."""
_TAIL = 15


def filled(template: dict[str, Any], command: Sequence[str]) -> dict[str, Any]:
    """The JobSet of a training: the manifest with its name, command, machines and variables.

    Raises:
        ValueError: the manifest has not exactly one replicated job with one container.
    """
    jobs = template["spec"]["replicatedJobs"]
    containers = [c for job in jobs for c in job["template"]["spec"]["template"]["spec"]["containers"]]
    if len(jobs) != 1 or len(containers) != 1:
        raise ValueError("the manifest must have one replicated job with one container")
    machines = int(command[command.index("--num_machines") + 1])
    work = Path(command[command.index("--work") + 1]).name
    # A pod is called NAME-JOB-0-INDEX, and a name in DNS has at most 63 characters.
    name = re.sub(r"[^a-z0-9]+", "-", f"ql-{work}".lower())[:40].strip("-")
    template["metadata"] = template.get("metadata", {}) | {"name": name}
    template["spec"]["failurePolicy"] = {"maxRestarts": 0}  # the pipeline starts it again
    [job], [container] = jobs, containers
    job["replicas"] = 1
    job["template"]["spec"] |= {
        "completionMode": "Indexed", "parallelism": machines, "completions": machines, "backoffLimit": 0,
    }  # fmt: skip
    job["template"]["spec"]["template"]["spec"]["restartPolicy"] = "Never"
    meet = {"MASTER_ADDR": f"{name}-{job['name']}-0-0.{name}", "MASTER_PORT": str(PORT)}
    given = [{"name": key, "value": value} for key, value in (FIXED_VARIABLES | meet).items()]
    container |= {"command": list(command), "workingDir": str(Path.cwd())}
    container["env"] = [*given, *container.get("env", [])]
    return template


class Submitted:
    """A JobSet in the cluster."""

    def __init__(self, body: dict[str, Any], namespace: str) -> None:
        self.body, self.name, self.namespace = body, body["metadata"]["name"], namespace
        self.api, self.core = client.CustomObjectsApi(), client.CoreV1Api()
        # Connections of its own, since a signal interrupts calls of the others.
        self._for_deletion = client.CustomObjectsApi(client.ApiClient())
        self._away_since: float | None = None

    def create(self) -> None:
        """Create it, after deleting what an earlier submitter left: the caller holds the training's lock."""
        while True:
            try:
                self.api.create_namespaced_custom_object(body=self.body, namespace=self.namespace, **PLACE)
                return
            except ApiException as error:
                if error.status != 409:
                    raise
                print(f"jobset {self.name} is still there: deleting it", flush=True)
                self.delete()
                while self.state() != "Gone":
                    time.sleep(_POLL_SECONDS)

    def delete(self) -> None:
        """Delete it with its pods, which get SIGTERM and the grace period of the manifest."""
        try:
            self._for_deletion.delete_namespaced_custom_object(
                name=self.name, namespace=self.namespace, propagation_policy="Foreground", **PLACE
            )
        except ApiException as error:
            if error.status != 404:
                raise

    def state(self) -> str:
        """``Completed``, ``Failed``, ``Gone`` or ``Running``."""
        try:
            found: Any = self.api.get_namespaced_custom_object(name=self.name, namespace=self.namespace, **PLACE)
        except ApiException as error:
            if error.status == 404:
                return "Gone"
            raise
        return str(found.get("status", {}).get("terminalState") or "Running")

    def pods(self, index: int | None = None) -> list[Any]:
        """Its pods, or the one with this index."""
        labels = [f"jobset.sigs.k8s.io/jobset-name={self.name}"]
        labels += [f"batch.kubernetes.io/job-completion-index={index}"] if index is not None else []
        return list(self.core.list_namespaced_pod(self.namespace, label_selector=",".join(labels)).items)

    def lines(self, pod: str, **options: Any) -> Iterator[str]:
        """Lines of a pod's log."""
        answer = self.core.read_namespaced_pod_log(pod, self.namespace, _preload_content=False, **options)
        rest = b""
        for part in answer.stream(amt=None):  # chunk by chunk, as they are written
            *whole, rest = (rest + part).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole)
        if rest:
            yield rest.decode(errors="replace")

    def follow(self) -> str:
        """Print the log of pod 0 until the JobSet has ended; returns its state."""
        shown, told = 0, ""
        while True:
            try:
                state = self.state()
                for pod in self.pods(0):
                    phase = pod.status.phase
                    if phase != told:
                        told = phase
                        print(f"pod {pod.metadata.name}: {phase}", flush=True)
                    if phase == "Pending":
                        continue
                    # From the start and past what was shown: a broken stream loses and repeats nothing.
                    for number, line in enumerate(self.lines(pod.metadata.name, follow=state == "Running")):
                        if number >= shown:
                            shown = number + 1
                            print(line, flush=True)
                self._away_since = None
            except (ApiException, HTTPError) as error:
                state = self._wait_for_server(error)
            if state != "Running":
                return state
            time.sleep(_POLL_SECONDS)

    def _wait_for_server(self, error: Exception) -> str:
        if isinstance(error, ApiException) and error.status is not None and 400 <= error.status < 500:
            if error.status not in (400, 404):  # a pod whose container is not up yet, or that is gone since
                raise error
        elif self._away_since is None:
            self._away_since = time.monotonic()
            print(f"the API server does not answer: {error}", flush=True)
        elif time.monotonic() - self._away_since > _AWAY_SECONDS:
            raise error
        return "Running"

    def show_failures(self) -> None:
        """Print the last lines of every other pod that failed."""
        for pod in self.pods():
            if pod.status.phase == "Failed":
                for line in self.lines(pod.metadata.name, tail_lines=_TAIL):
                    print(f"{pod.metadata.name}: {line}", flush=True)


def _namespace(template: dict[str, Any]) -> str:
    """That of the manifest, else of the pod that runs this."""
    inside = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    own = inside.read_text().strip() if inside.is_file() else "default"
    return str(template.get("metadata", {}).get("namespace", own))


def main() -> int:
    """Run the JobSet to its end: 0 if it completed, 143 after SIGTERM, else 1."""
    parser = argparse.ArgumentParser(prog="python -m qwenlong.tasks.jobset", description=__doc__)
    parser.add_argument("--manifest", type=Path, required=True, help="a JobSet without command (YAML or JSON)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="the training's command")
    given = parser.parse_args()
    template = yaml.safe_load(given.manifest.read_text())
    config.load_config()
    submitted = Submitted(filled(template, given.command), _namespace(template))
    stopped = False

    def stop(*_: object) -> None:
        nonlocal stopped
        stopped = True
        submitted.delete()

    submitted.create()
    signal.signal(signal.SIGTERM, stop)
    try:
        state = submitted.follow()
        if state == "Failed":
            submitted.show_failures()
    finally:
        submitted.delete()
    return 143 if stopped else 0 if state == "Completed" else 1


if __name__ == "__main__":
    sys.exit(main())
