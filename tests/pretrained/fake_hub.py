"""A server that answers as the Hugging Face Hub does, as far as a download asks."""

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
LARGE = ".safetensors"  # what git keeps elsewhere: the answer is the place and the sha256


@dataclasses.dataclass
class Hub:
    """The server's content, and what was asked.

    Attributes:
      url: where it answers.
      storage: where large files are, another host by name.
      files: by repository and name.
      sent: what is sent in place of a file, by its name.
      requests: methods and paths.
    """

    url: str = ""
    storage: str = ""
    files: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    sent: dict[str, bytes] = dataclasses.field(default_factory=dict)
    requests: list[str] = dataclasses.field(default_factory=list)

    def publish(self, repository: str, directory: Path) -> None:
        self.files[repository] = {path.name: path.read_bytes() for path in directory.iterdir()}


def checksum(name: str, content: bytes) -> str:
    """What the Hub gives as a file's ETag."""
    if name.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """One request; a subclass says to which hub."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name there)
        self.hub.requests.append(f"{self.command} {self.path}")

    def answer(self) -> None:
        match = PATHS.fullmatch(self.path)
        files = self.hub.files.get(match["repository"] if match else "")
        if match is None or files is None:
            # The real one does not tell strangers whether there is something private.
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
    """A hub without content that answers until the end."""
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
