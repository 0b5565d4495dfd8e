"""A Hugging Face Hub on the loopback interface: the requests that huggingface_hub makes to load and upload models."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_write"


class FakeHub:
    """Repositories as lists of commits, the last of which is main; a commit maps paths to contents.

    `declared` replaces the size of a file in listings; `requests` holds the method and path of every request.
    """

    def __init__(self):
        self.repositories: dict[str, list[dict[str, bytes]]] = {}
        self.declared: dict[str, int] = {}
        self.tags: dict[str, int] = {}
        self.requests: list[tuple[str, str]] = []
        self.status: int | None = None  # of all answers, for a server with an error
        self.page: bytes | None = None  # answer to all requests, of a server that is no Hub

    def sha(self, repository, number):
        content = {path: hashlib.sha1(data).hexdigest() for path, data in self.repositories[repository][number].items()}
        return hashlib.sha1(json.dumps([number, content]).encode()).hexdigest()

    def find(self, repository, revision):
        """Return number and hash of a commit, or None."""
        commits = self.repositories[repository]
        names = {self.sha(repository, number): number for number in range(len(commits))}
        names |= {"main": len(commits) - 1, **self.tags}
        return (names[revision], self.sha(repository, names[revision])) if revision in names else None

    def downloaded(self):
        """Paths of all files whose content was sent."""
        return sorted(
            path.partition("/resolve/")[2].partition("/")[2]
            for method, path in self.requests
            if method == "GET" and "/resolve/" in path
        )


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *args):
        pass

    def answer(self, content, status=200, **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def fail(self, status, code=""):
        self.answer({"error": code}, status, **({"X_Error_Code": code} if code else {}))

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        words = path.strip("/").split("/")
        api = words[:2] == ["api", "models"]
        repository, rest = "/".join(words[2:4] if api else words[:2]), words[4 if api else 2 :]
        if self.hub.page:
            return self.answer(self.hub.page)
        if self.hub.status:
            return self.fail(self.hub.status)
        if repository not in self.hub.repositories:
            return self.fail(401, "RepoNotFound")
        found = self.hub.find(repository, rest[1] if rest else "main")
        if found is None:
            return self.fail(404, "RevisionNotFound")
        number, sha = found
        files = self.hub.repositories[repository][number]
        entries = [
            {"path": path, "size": self.hub.declared.get(path, len(data)), "oid": hashlib.sha1(data).hexdigest()}
            for path, data in files.items()
        ]
        if api and rest[:1] == ["tree"]:
            return self.answer([{"type": "file", **entry} for entry in entries])
        if api:
            siblings = [{"rfilename": x["path"], "size": x["size"], "blobId": x["oid"]} for x in entries]
            return self.answer({"id": repository, "sha": sha, "siblings": siblings, "private": False, "tags": []})
        name = "/".join(rest[2:])
        if name not in files:
            return self.fail(404, "EntryNotFound")
        return self.answer(files[name], ETag=f'"{hashlib.sha1(files[name]).hexdigest()}"', X_Repo_Commit=sha)

    do_HEAD = do_GET

    def do_POST(self):
        path = unquote(urlsplit(self.path).path)
        self.hub.requests.append((self.command, path))
        body = (
            self.rfile.read(int(self.headers["Content-Length"])) if "Content-Length" in self.headers else self.chunks()
        )
        if self.hub.status:
            return self.fail(self.hub.status)
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.fail(401)
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}"
            if name in self.hub.repositories:
                return self.answer({"url": f"http://{self.headers['Host']}/{name}"}, 409)
            self.hub.repositories[name] = [{}]
            return self.answer({"url": f"http://{self.headers['Host']}/{name}"})
        repository = "/".join(path.split("/")[3:5])
        if "/preupload/" in path:
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self.answer({"files": files})
        lines = [json.loads(line) for line in body.splitlines()]
        added = {x["value"]["path"]: base64.b64decode(x["value"]["content"]) for x in lines if x["key"] == "file"}
        commits = self.hub.repositories[repository]
        commits.append({**commits[-1], **added})
        sha = self.hub.sha(repository, -1)
        url = f"http://{self.headers['Host']}/{repository}/commit/{sha}"
        return self.answer({"success": True, "commitOid": sha, "commitUrl": url, "hookOutput": ""})

    def chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body


@contextlib.contextmanager
def fake_hub(monkeypatch, cache):
    """Start a hub and make huggingface_hub use it, with `cache` as folder of downloads and without a token."""
    from huggingface_hub import constants

    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    address = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, address)
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": template,
        "HF_HUB_CACHE": str(cache),
        "HF_TOKEN_PATH": str(cache / "token"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
