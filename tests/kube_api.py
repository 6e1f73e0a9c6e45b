"""A Kubernetes API server on loopback that knows JobSets and their pods, and runs each pod as a process.

It plays API server, JobSet controller and kubelet as far as a submitter sees them: objects are stored, listed and
deleted, logs are streamed while they are written, a deleted pod gets SIGTERM. There are no images and no DNS: a command
runs here, and ``MASTER_ADDR`` leads to loopback.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

JOBSETS = re.compile(r"/apis/jobset\.x-k8s\.io/v1alpha2/namespaces/([^/]+)/jobsets(?:/([^/]+))?")
PODS = re.compile(r"/api/v1/namespaces/([^/]+)/pods(?:/([^/]+)/log)?")


class Pod:
    def __init__(self, jobset: str, job: dict[str, Any], index: int, folder: Path) -> None:
        self.name, self.index = f"{jobset}-{job['name']}-0-{index}-x7k2p", index
        [container] = job["template"]["spec"]["template"]["spec"]["containers"]
        variables = {one["name"]: one["value"] for one in container["env"]}
        self.address = variables["MASTER_ADDR"]
        variables |= {"JOB_COMPLETION_INDEX": str(index), "MASTER_ADDR": "127.0.0.1"}
        self.log = folder / self.name
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                container["command"], stdout=log, stderr=log, env=os.environ | variables, cwd=container["workingDir"]
            )

    @property
    def phase(self) -> str:
        status = self.process.poll()
        return "Running" if status is None else "Failed" if status else "Succeeded"

    def described(self, jobset: str) -> dict[str, Any]:
        labels = {
            "jobset.sigs.k8s.io/jobset-name": jobset,
            "batch.kubernetes.io/job-completion-index": str(self.index),
        }
        return {"metadata": {"name": self.name, "labels": labels}, "status": {"phase": self.phase}}


class KubeApi(ThreadingHTTPServer):
    """The server; :attr:`kubeconfig` leads to it."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.jobsets: dict[str, dict[str, Any]] = {}
        self.pods: dict[str, list[Pod]] = {}
        self.created: list[dict[str, Any]] = []
        self.deleted: list[tuple[str, str | None]] = []
        self.failing = 0
        """How many of the next requests are answered by 503."""
        self.kubeconfig = folder / "kubeconfig"
        here = {"cluster": {"server": f"http://127.0.0.1:{self.server_port}"}, "name": "here"}
        context = {"context": {"cluster": "here", "user": "me", "namespace": "training"}, "name": "here"}
        users = [{"name": "me", "user": {"token": "a-token"}}]
        self.kubeconfig.write_text(
            json.dumps({"clusters": [here], "contexts": [context], "current-context": "here", "users": users})
        )
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def create(self, body: dict[str, Any]) -> None:
        name, [job] = body["metadata"]["name"], body["spec"]["replicatedJobs"]
        self.created.append(body)
        self.jobsets[name] = body
        count = job["template"]["spec"]["completions"]
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        self.pods[name] = [Pod(name, job, index, folder) for index in range(count)]

    def status(self, name: str) -> dict[str, Any]:
        """As the controller leaves it: failed with the first failed pod, completed with the last one."""
        phases = {pod.phase for pod in self.pods[name]}
        state = "Failed" if "Failed" in phases else "Completed" if phases == {"Succeeded"} else None
        return self.jobsets[name] | ({"status": {"terminalState": state}} if state else {})

    def delete(self, name: str, propagation: str | None) -> None:
        self.deleted.append((name, propagation))
        for pod in self.pods[name]:
            pod.process.send_signal(signal.SIGTERM)
        threading.Thread(target=self._collect, args=(name,), daemon=True).start()

    def _collect(self, name: str) -> None:
        for pod in self.pods[name]:
            pod.process.wait(60)
        self.jobsets.pop(name, None)


class _Handler(BaseHTTPRequestHandler):
    server: KubeApi
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _refused(self) -> bool:
        if self.server.failing > 0:
            self.server.failing -= 1
            self._answer(503, {"reason": "ServiceUnavailable"})
            return True
        if self.headers["Authorization"] != "Bearer a-token":
            self._answer(401, {"reason": "Unauthorized"})
            return True
        return False

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._refused():
            return
        if body["metadata"]["name"] in self.server.jobsets:
            return self._answer(409, {"reason": "AlreadyExists"})
        self.server.create(body)
        self._answer(201, body)

    def do_DELETE(self) -> None:
        parts, found = urlsplit(self.path), JOBSETS.fullmatch(urlsplit(self.path).path)
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self._refused():
            return
        if not found or found[2] not in self.server.jobsets:
            return self._answer(404, {"reason": "NotFound"})
        self.server.delete(found[2], parse_qs(parts.query).get("propagationPolicy", [None])[0])
        self._answer(200, {"status": "Success"})

    def do_GET(self) -> None:
        if self._refused():
            return
        parts = urlsplit(self.path)
        query = {key: values[0] for key, values in parse_qs(parts.query).items()}
        if found := JOBSETS.fullmatch(parts.path):
            known = found[2] in self.server.jobsets
            return self._answer(200, self.server.status(found[2])) if known else self._answer(404, {})
        found = PODS.fullmatch(parts.path)
        assert found, self.path
        if found[2]:
            return self._log(found[2], query)
        wanted = dict(part.split("=") for part in query["labelSelector"].split(","))
        pods = [pod.described(name) for name in self.server.jobsets for pod in self.server.pods[name]]
        items = [pod for pod in pods if wanted.items() <= pod["metadata"]["labels"].items()]
        self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})

    def _log(self, name: str, query: dict[str, str]) -> None:
        [pod] = [pod for pods in self.server.pods.values() for pod in pods if pod.name == name]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        with pod.log.open("rb") as log:
            while True:
                ended = pod.process.poll() is not None
                part = log.read()
                if "tailLines" in query:
                    part = b"".join(part.splitlines(keepends=True)[-int(query["tailLines"]) :])
                if part:
                    self._chunk(part)
                if ended or query.get("follow", "").lower() != "true":
                    return self._chunk(b"")
                time.sleep(0.05)

    def _chunk(self, part: bytes) -> None:
        self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
