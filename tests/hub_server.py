"""A web server that speaks as a model hub does, sends on to a second host for files, and fails."""

import base64
import hashlib
import json
import re
import shutil
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch

from ndt3_dist.checkpoint.export import describe_export, write_export
from ndt3_dist.model.ndt3 import NDT3

NORMS = {"bin_size_ms": 20.0, "window_bins": 100, "sessions": {}}
TRAINED = {"run": "r", "step": 7, "epochs": 1.0, "corpus": "c", "lineage": []}
TOKEN = "hf_secret-of-the-lab"


def is_large(name: str) -> bool:
    """Whether a file lies on the host of the files that git has the hashes of."""
    return name.endswith(".safetensors")


def make_export(folder: Path, config, seed: int, **trained) -> Path:
    """An export of a model of random weights, and files beside it."""
    torch.manual_seed(seed)
    weights = {name: p.detach() for name, p in NDT3(config).named_parameters()}
    write_export(
        folder, weights, describe_export(config, weights, "fp32", {**TRAINED, **trained}), NORMS
    )
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    (folder / "modeling.py").write_text("raise SystemExit")
    return folder


class HubServer:
    """Repositories by name; the same files lie at URL/web/ORG/NAME/FILE, as on any web server.

    Attributes:
        models: Folder of each "ORG/NAME@REVISION".
        moved: Old name -> new name of a repository, to which the hub sends one on.
        private: Names that want the token.
        gated: Names whose files want it, for those who were granted access.
        asked: (host, path, Authorization, Range) of every request; hosts are hub, files, web.
        agents: What they all say they are.
        tells: Of a repository, instead of what it has; None to tell the truth.
        faults: Part of a path -> what happens to the next request for it: cut, flip, 500.
        commits: (name, paths) of each that was pushed; their folders lie below `root`.
    """

    def __init__(self, root: Path):
        self.root = root
        self.commits: list[tuple[str, list[str]]] = []
        self.models: dict[str, Path] = {}
        self.moved: dict[str, str] = {}
        self.private: set[str] = set()
        self.gated: set[str] = set()
        self.uploads: dict[str, bytes] = {}
        self.asked: list[tuple[str, str, str | None, str | None]] = []
        self.agents: set[str | None] = set()
        self.tells: bytes | None = None
        self.faults: dict[str, str] = {}
        self.servers = []
        for host in ("hub", "files"):
            handler = type("Handler", (_Handler,), {"hub": self, "host": host})
            server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
            self.servers.append(server)
        self.url, self.files = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)

    def commit(self, name: str, revision: str) -> str | None:
        folder = self.models.get(f"{name}@{revision}")
        return folder and hashlib.sha1(str(folder).encode()).hexdigest()

    def at(self, name: str, commit: str) -> Path | None:
        for key, folder in self.models.items():
            own, revision = key.split("@")
            if own == name and self.commit(own, revision) == commit:
                return folder
        return None

    def fetched(self) -> list[str]:
        """Names of the files whose bytes were asked for."""
        return [path.rsplit("/", 1)[1] for host, path, *_ in self.asked if host == "files"]

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    host: str
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        path, said = self.path.split("?")[0], self.headers.get("Authorization")
        host = "web" if path.startswith("/web/") else self.host
        self.hub.asked.append((host, path, said, self.headers.get("Range")))
        self.hub.agents.add(self.headers.get("User-Agent"))
        for old, new in self.hub.moved.items():
            if old in path:
                self.answer(307, location=self.hub.url + self.path.replace(old, new))
                return
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/revision/(.+)", path):
            self.tell(match[1], match[2], said)
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([0-9a-f]{40})/([^/]+)", path):
            folder = self.hub.at(match[1], match[2])
            if folder is None or not (folder / match[3]).is_file():
                self.answer(404, error="EntryNotFound")
            elif self.host == "hub" and self.refuses(match[1], self.hub.private, said):
                self.answer(401, error="RepoNotFound")
            elif self.host == "hub" and self.refuses(match[1], self.hub.gated, said):
                self.answer(403, error="GatedRepo")
            elif self.host == "hub":
                self.answer(302, location=self.hub.files + path)
            else:
                self.send_file(folder / match[3])
        elif host == "web":
            name, file = path.removeprefix("/web/").rsplit("/", 1)
            if name in self.hub.private:
                self.answer(403)
                return
            folder = self.hub.models.get(f"{name}@main")
            if folder is None or not (folder / file).is_file():
                self.answer(404)
            else:
                self.send_file(folder / file)
        else:
            self.answer(404)

    do_HEAD = do_GET

    def do_PUT(self):
        self.hub.asked.append((self.host, self.path, self.headers.get("Authorization"), None))
        data = self.rfile.read(int(self.headers["Content-Length"]))
        self.hub.uploads[hashlib.sha256(data).hexdigest()] = data
        self.answer(200)

    def do_POST(self):
        said, body = (
            self.headers.get("Authorization"),
            self.rfile.read(int(self.headers["Content-Length"])),
        )
        self.hub.asked.append((self.host, self.path, said, None))
        if said != f"Bearer {TOKEN}":
            self.answer(401, error="RepoNotFound")
        elif self.path == "/api/validate-yaml":
            self.answer(200, b"{}")
        elif "/preupload/" in self.path:
            files = [
                {
                    "path": file["path"],
                    "shouldIgnore": False,
                    "uploadMode": "lfs" if is_large(file["path"]) else "regular",
                }
                for file in json.loads(body)["files"]
            ]
            self.answer(200, json.dumps({"files": files}).encode())
        elif self.path.endswith(".git/info/lfs/objects/batch"):
            files = [
                {**file, "actions": {"upload": {"href": f"{self.hub.files}/upload/{file['oid']}"}}}
                for file in json.loads(body)["objects"]
            ]
            self.answer(200, json.dumps({"objects": files}).encode())
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", self.path):
            self.commit(f"{match[1]}@{match[2]}", [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404)

    def commit(self, name: str, lines: list[dict]) -> None:
        """Put files into a repository, on top of the commit that the first line names."""
        if lines[0]["value"]["parentCommit"] != self.hub.commit(*name.split("@")):
            self.answer(412)
            return
        folder = self.hub.root / f"commit{len(self.hub.commits)}"
        shutil.copytree(self.hub.models[name], folder)
        for line in lines[1:]:
            told = line["value"]
            data = base64.b64decode(told.get("content", "")) or self.hub.uploads[told["oid"]]
            (folder / told["path"]).write_bytes(data)
        self.hub.models[name] = folder
        self.hub.commits.append((name, [line["value"]["path"] for line in lines[1:]]))
        oid = self.hub.commit(*name.split("@"))
        url = f"{self.hub.url}/{name.split('@')[0]}/commit/{oid}"
        self.answer(200, json.dumps({"commitUrl": url, "commitOid": oid}).encode())

    def refuses(self, name: str, wanting: set[str], said: str | None) -> bool:
        return name in wanting and said != f"Bearer {TOKEN}"

    def tell(self, name: str, revision: str, said: str | None) -> None:
        if self.hub.tells is not None:
            self.answer(200, self.hub.tells)
            return
        if self.refuses(name, self.hub.private, said):
            self.answer(401, error="RepoNotFound")
            return
        if (commit := self.hub.commit(name, revision)) is None:
            self.answer(404, error="RevisionNotFound")
            return
        files = []
        for file in sorted(self.hub.models[f"{name}@{revision}"].iterdir()):
            data = file.read_bytes()
            told = {"rfilename": file.name, "size": len(data)}
            told["blobId"] = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
            if is_large(file.name):
                told["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
                told["lfs"]["pointerSize"] = 130
            files.append(told)
        self.answer(200, json.dumps({"id": name, "sha": commit, "siblings": files}).encode())

    def send_file(self, file: Path) -> None:
        data = file.read_bytes()
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        found = [part for part in self.hub.faults if part in self.path and self.command == "GET"]
        fault = self.hub.faults.pop(found[0]) if found else None
        if fault == "500":
            self.answer(500)
            return
        if fault == "flip":
            data = data[:-1] + bytes([data[-1] ^ 1])
        etag = hashlib.md5(file.read_bytes()).hexdigest()
        if part:
            data = data[int(part[1]) : int(part[2] or len(data)) + 1]
        self.answer(206 if part else 200, data, etag=etag, cut=fault == "cut")

    def answer(
        self, status: int, data: bytes = b"", location="", etag="", error="", cut=False
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        if location:
            self.send_header("Location", location)
        if etag:
            self.send_header("ETag", f'"{etag}"')
        if error:
            self.send_header("X-Error-Code", error)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut

    def log_message(self, format, *args):
        pass
