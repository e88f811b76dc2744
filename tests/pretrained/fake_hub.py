"""Local HTTP server with the part of the Hugging Face Hub's API that a download uses."""

import contextlib
import dataclasses
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

COMMIT = "0123456789abcdef0123456789abcdef01234567"
PATHS = re.compile(
    r"/(?:api/models/)?(?P<repository>timm/[^/]+)"
    r"(?:/resolve/(?:main|[0-9a-f]{40})/(?P<file>.+)|/stored/(?P<stored>.+))?"
)
NONE: Mapping[str, str] = MappingProxyType({})
# Suffix of large files, which the Hub stores outside git. It redirects requests to their storage
# and announces their sha256.
LARGE = ".safetensors"


@dataclasses.dataclass
class Hub:
    """Content of the server, and a record of the requests.

    Attributes:
      url: address of the server.
      storage: address of large files, on another host name.
      files: content by repository and file name.
      sent: content that is sent instead of a file's own, by file name.
      requests: method and path of each request.
    """

    url: str = ""
    storage: str = ""
    files: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    sent: dict[str, bytes] = dataclasses.field(default_factory=dict)
    requests: list[str] = dataclasses.field(default_factory=list)

    def publish(self, repository: str, directory: Path) -> None:
        self.files[repository] = {path.name: path.read_bytes() for path in directory.iterdir()}


def checksum(name: str, content: bytes) -> str:
    """Returns the ETag that the Hub sends for a file."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Handler of a request; subclasses set `hub`."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.hub.requests.append(f"{self.command} {self.path}")

    def answer(self) -> None:
        match = PATHS.fullmatch(self.path)
        files = self.hub.files.get(match["repository"] if match else "")
        if match is None or files is None:
            # Like the Hub, do not reveal whether a private repository exists.
            self.reply(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif match["stored"]:
            self.reply(200, self.hub.sent.get(match["stored"], files[match["stored"]]))
        elif match["file"]:
            self.resolve(match["repository"], match["file"])
        else:
            names = [{"rfilename": name} for name in files]
            model = {"id": match["repository"], "sha": COMMIT, "siblings": names}
            self.reply(200, json.dumps(model).encode())

    def resolve(self, repository: str, name: str) -> None:
        content = self.hub.files[repository].get(name)
        headers = {"X-Repo-Commit": COMMIT}
        if content is None:
            self.reply(404, b"", {**headers, "X-Error-Code": "EntryNotFound"})
            return
        etag = f'"{checksum(name, content)}"'
        if not name.endswith(LARGE):
            self.reply(200, self.hub.sent.get(name, content), {**headers, "ETag": etag})
            return
        location = f"{self.hub.storage}/{repository}/stored/{name}"
        linked = {"X-Linked-Etag": etag, "X-Linked-Size": str(len(content))}
        self.reply(302, b"", {**headers, **linked, "Location": location})

    def reply(self, status: int, body: bytes, headers: Mapping[str, str] = NONE) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@contextlib.contextmanager
def serve() -> Iterator[Hub]:
    """Runs an empty hub until the context ends."""
    hub = Hub()
    handler = type("BoundHandler", (Handler,), {"hub": hub})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        hub.url = f"http://127.0.0.1:{server.server_port}"
        hub.storage = f"http://localhost:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()
