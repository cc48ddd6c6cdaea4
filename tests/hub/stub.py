"""A hub on loopback that answers what huggingface_hub asks: repositories with branches, commits and files."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


@dataclass
class Repository:
    """Commits by name, and the commit of each branch."""

    commits: dict[str, Files] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    private: bool = False

    def commit(self, files: Files, branch: str = "main") -> str:
        """These files on top of what the branch has; the name of the commit."""
        whole = {**self.at(branch), **files}
        name = hashlib.sha1(repr(sorted(whole.items())).encode() + str(len(self.commits)).encode()).hexdigest()
        self.commits[name] = whole
        self.branches[branch] = name
        return name

    def name_of(self, revision: str) -> str | None:
        """The commit of a branch, or a commit itself."""
        return self.branches.get(revision, revision if revision in self.commits else None)

    def at(self, revision: str) -> Files:
        """The files there."""
        name = self.name_of(revision)
        return {} if name is None else self.commits[name]


class Hub(ThreadingHTTPServer):
    """The server; ``asked`` has every request, ``unknown`` those that it had no answer for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answers)
        self.repositories: dict[str, Repository] = {}
        self.asked: list[str] = []
        self.unknown: list[str] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    """One request."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path_of()
        if path == "/api/agent-harnesses":
            return self.say(200, {"standardEnvVars": [], "harnesses": {}})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self.file(*map(unquote, found.groups()))
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(?:revision|tree)/([^/]+)", path):
            return self.listing(*map(unquote, found.groups()), tree="/tree/" in path)
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)", path):
            return self.listing(unquote(found[1]), "main", tree=False)
        return self.no_answer(path)

    def do_POST(self) -> None:
        path, body = self.path_of(), self.body()
        if path == "/api/repos/create":
            given = json.loads(body)
            name = f"{given['organization']}/{given['name']}" if given.get("organization") else given["name"]
            if name in self.server.repositories:
                return self.say(409, {"error": "exists", "url": f"{self.server.address}/{name}"})
            made = Repository(private=bool(given.get("private")) or given.get("visibility") == "private")
            made.commit({})
            self.server.repositories[name] = made
            return self.say(200, {"url": f"{self.server.address}/{name}", "name": name, "id": name})
        if path == "/api/validate-yaml":
            return self.say(200, {"errors": [], "warnings": []})
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/(preupload|commit|branch)/(.+)", path):
            name, kind, revision = map(unquote, found.groups())
            repository = self.server.repositories.get(name)
            if repository is None:
                return self.missing("RepoNotFound")
            if kind == "branch":
                if revision in repository.branches:
                    return self.say(409, {"error": "exists"})
                repository.branches[revision] = repository.branches["main"]
                return self.say(200, {})
            if revision not in repository.branches:
                return self.missing("RevisionNotFound")
            if kind == "preupload":
                files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
                return self.say(200, {"files": [{**one, "shouldIgnore": False, "oid": None} for one in files]})
            return self.take(repository, name, revision, body)
        return self.no_answer(path)

    def take(self, repository: Repository, name: str, revision: str, body: bytes) -> None:
        """A commit."""
        lines = [json.loads(line) for line in body.splitlines() if line.strip()]
        files = {
            line["value"]["path"]: base64.b64decode(line["value"]["content"]) for line in lines if line["key"] == "file"
        }
        pull = "create_pr=1" in self.path
        branch = "refs/pr/1" if pull else revision
        if pull:
            repository.branches[branch] = repository.branches[revision]
        oid = repository.commit(files, branch)
        done = {"success": True, "commitOid": oid, "commitUrl": f"{self.server.address}/{name}/commit/{oid}"}
        more = {"pullRequestUrl": f"{self.server.address}/{name}/discussions/1"} if pull else {}
        self.say(200, {**done, **more})

    def file(self, name: str, revision: str, path: str) -> None:
        """A file, or why there is none."""
        repository = self.server.repositories.get(name)
        if repository is None or (repository.private and "Authorization" not in self.headers):
            return self.missing("RepoNotFound", 401)
        commit = repository.name_of(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        content = repository.commits[commit].get(path)
        if content is None:
            return self.missing("EntryNotFound", commit=commit)
        about = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        return self.reply(200, content, {**about, "Content-Type": "application/octet-stream"})

    def listing(self, name: str, revision: str, tree: bool) -> None:
        """The files of a commit."""
        repository = self.server.repositories.get(name)
        if repository is None:
            return self.missing("RepoNotFound", 401)
        commit = repository.name_of(revision)
        if commit is None:
            return self.missing("RevisionNotFound")
        files = repository.commits[commit]
        if tree:
            one = [
                {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}
                for path, content in files.items()
            ]
            return self.say(200, one)
        siblings = [{"rfilename": path} for path in files]
        return self.say(200, {"id": name, "modelId": name, "sha": commit, "siblings": siblings, "tags": []})

    def path_of(self) -> str:
        path = urlsplit(self.path).path
        self.server.asked.append(f"{self.command} {path}")
        return path

    def body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def missing(self, code: str, status: int = 404, commit: str | None = None) -> None:
        headers = {"X-Error-Code": code, **({} if commit is None else {"X-Repo-Commit": commit})}
        self.reply(status, b"{}", {**headers, "Content-Type": "application/json"})

    def no_answer(self, path: str) -> None:
        self.server.unknown.append(f"{self.command} {path}")
        self.say(404, {"error": "the stub has no answer"})

    def say(self, status: int, value: Any) -> None:
        self.reply(status, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
