"""Files of a model repository on Hugging Face's hub, by its HTTP API and nothing but Python's own.

HF_ENDPOINT names another hub. HF_TOKEN opens what is private; it is sent to the hub alone, not to
the host of the files that the hub may send one on to, and is in no message.
"""

import json
import os
import re
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Any
from urllib.error import HTTPError
from urllib.parse import quote, urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from ndt3_dist import remote, storage
from ndt3_dist.errors import BadInput

ENDPOINT = "https://huggingface.co"
NAME = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([^\s@]+))?", re.ASCII)
TIMEOUT_S = 30.0
"""Without a byte."""
LOOKS = 3
"""Tries for the first request, so that who has no network hears it soon."""
MOST_JSON = 16 << 20
"""Bytes of what the hub says of a repository."""


class Hub:
    """A repository at one revision; the one it was when it was looked at.

    Attributes:
        commit: Of the revision; "" before `look`.
    """

    def __init__(self, name: str):
        """Raises BadInput where a name, HF_ENDPOINT or HF_TOKEN cannot be one."""
        if not (match := NAME.fullmatch(name)):
            raise BadInput(f"{name}: no name of a model; expected hf://ORG/NAME[@REVISION]")
        self.name, self.commit = name, ""
        self.repository, self.revision = match[1], match[2] or "main"
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or ENDPOINT
        if urlsplit(self.endpoint).scheme not in ("http", "https"):
            raise BadInput("HF_ENDPOINT: expected the address of a hub, such as https://HOST")
        self.token = os.environ.get("HF_TOKEN", "").strip()
        if not re.fullmatch(r"[!-~]*", self.token):
            raise BadInput("HF_TOKEN: has characters that no token has; copy it again")
        self.sizes: dict[str, int] = {}

    def look(self, files: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Those of some files that are there: bytes, and what tells one file from another.

        Raises:
            FileNotFoundError, PermissionError: There is no such repository, or not for us.
            StoreFailed: The hub does not answer.
        """
        revision = quote(self.revision, safe="")
        url = f"{self.endpoint}/api/models/{self.repository}/revision/{revision}?blobs=true"

        def ask() -> bytes:
            with self._open(url) as answer:
                return answer.read(MOST_JSON)

        data = remote.with_retries(self.name, "looked up", ask, LOOKS, TIMEOUT_S)
        try:
            told = json.loads(data)
            there = {f["rfilename"]: f for f in told["siblings"] if f["rfilename"] in files}
            found: dict[str, dict[str, Any]] = {}
            for name, file in there.items():
                found[name] = {"size": int(file["size"])}
                if sha256 := (file.get("lfs") or {}).get("sha256"):
                    found[name]["sha256"] = str(sha256)
                else:
                    found[name]["blob"] = str(file["blobId"])
            self.commit = quote(str(told["sha"]), safe="")
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise BadInput(
                f"{self.name}: {self.endpoint} does not answer as a hub does "
                f"({type(e).__name__}: {e}); see HF_ENDPOINT"
            ) from e
        self.sizes = {name: file["size"] for name, file in found.items()}
        return found

    def pieces(self, file: str) -> Iterator[bytes]:
        """The bytes of a file that was looked at; after a fault from where they stopped."""
        url = f"{self.endpoint}/{self.repository}/resolve/{self.commit}/{file}"
        got, size, answer = 0, self.sizes[file], None

        def more() -> bytes:
            nonlocal answer
            try:
                answer = answer or self._open(url, got)
                piece = answer.read(min(storage.READ_BYTES, size - got))
                if not piece:
                    raise OSError(f"ends after {got} of {size} bytes")
                return piece
            except Exception:
                answer = None
                raise

        while got < size:
            piece = remote.with_retries(f"{self.name}/{file}", "fetched", more, None, TIMEOUT_S)
            got += len(piece)
            yield piece

    def _open(self, url: str, start: int = 0) -> HTTPResponse:
        request = Request(url, headers={"User-Agent": "ndt3_dist"})
        if start:
            request.add_header("Range", f"bytes={start}-")
        if self.token:
            request.add_unredirected_header("Authorization", f"Bearer {self.token}")
        try:
            answer = build_opener(_Redirects).open(request, timeout=TIMEOUT_S)
        except HTTPError as e:
            if e.code in (401, 403):  # the hub says 401 of what does not exist, too
                said = f"not there, or private ({e.code}); see its name and HF_TOKEN"
                raise PermissionError(e.code, said, self.name) from e
            if e.code == 404:
                said = f"no such model, or it has no revision {self.revision}"
                raise FileNotFoundError(e.code, said, self.name) from e
            raise
        if start and answer.status != 206:
            raise OSError("the hub sends no part of a file")
        return answer


class _Redirects(HTTPRedirectHandler):
    """Keeps the token within one host."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        new = super().redirect_request(req, fp, code, msg, headers, newurl)
        token = req.unredirected_hdrs.get("Authorization")
        if new and token and urlsplit(newurl)[:2] == urlsplit(req.full_url)[:2]:
            new.add_unredirected_header("Authorization", token)
        return new
