"""Files of a model repository on Hugging Face's hub, by its own library (extra `hub`).

That heeds HF_ENDPOINT, HF_TOKEN or what `hf auth login` stored, and HF_HUB_OFFLINE; the token goes
to the hub alone, not to the host of the files. It is asked for no telemetry and for plain HTTP,
unless HF_HUB_DISABLE_TELEMETRY=0 or HF_HUB_DISABLE_XET=0.
"""

import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ndt3_dist import remote
from ndt3_dist.errors import BadInput, StoreFailed

NAME = re.compile(r"hf://(\w[\w.-]*/\w[\w.-]*)(?:@([^\s@]+))?", re.ASCII)
TIMEOUT_S = 10.0
"""Without a byte."""
LOOKS = 3
"""Tries for the first request, so that who has no network hears it soon."""
PIECE_BYTES = 16 << 20
"""Of one request; a fault costs no more than that."""


class Hub:
    """A repository at one revision; the one it was when it was looked at.

    Attributes:
        commit: Of the revision; "" before `look`.
    """

    def __init__(self, name: str):
        """Raises BadInput where a name, HF_ENDPOINT or a token cannot be one, or without `hub`."""
        if not (match := NAME.fullmatch(name)):
            raise BadInput(f"{name}: no name of a model; expected hf://ORG/NAME[@REVISION]")
        self.name, self.commit = name, ""
        self.repository, self.revision = match[1], match[2] or "main"
        for what in ("TELEMETRY", "XET", *([] if sys.stderr.isatty() else ["PROGRESS_BARS"])):
            os.environ.setdefault(f"HF_HUB_DISABLE_{what}", "1")  # read as the library is imported
        try:
            import huggingface_hub
        except ImportError as e:
            raise BadInput(f"{name}: {e}; pip install 'ndt3_dist[hub]'") from e
        self.library = huggingface_hub
        self.endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or "https://huggingface.co"
        if not re.match(r"https?://[^/]", self.endpoint):
            raise BadInput("HF_ENDPOINT: expected the address of a hub, such as https://HOST")
        if not re.fullmatch(r"[!-~]*", huggingface_hub.get_token() or ""):
            raise BadInput("HF_TOKEN: has characters that no token has; copy it again")
        self.api = huggingface_hub.HfApi(self.endpoint, library_name="ndt3_dist")
        self.sizes: dict[str, int] = {}

    def look(self, files: tuple[str, ...]) -> dict[str, dict[str, Any]]:
        """Those of some files that are there: bytes, and what tells one file from another.

        Raises:
            FileNotFoundError, PermissionError: There is no such repository, or not for us.
            StoreFailed: The hub does not answer, or is not to be asked.
        """
        if self.library.is_offline_mode():
            raise StoreFailed(f"{self.name}: HF_HUB_OFFLINE is set")

        def ask() -> dict[str, dict[str, Any]]:
            with self._errors():
                try:
                    told = self.api.model_info(
                        self.repository,
                        revision=self.revision,
                        files_metadata=True,
                        timeout=TIMEOUT_S,
                    )
                    self.commit = str(told.sha)
                    there = [file for file in told.siblings or () if file.rfilename in files]
                    return {file.rfilename: _version(file) for file in there}
                except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as e:
                    raise BadInput(
                        f"{self.name}: {self.endpoint} does not answer as a hub does "
                        f"({type(e).__name__}: {e}); see HF_ENDPOINT"
                    ) from e

        found = remote.with_retries(self.name, "looked up", ask, LOOKS, TIMEOUT_S)
        self.sizes = {name: file["size"] for name, file in found.items()}
        return found

    def pieces(self, file: str) -> Iterator[bytes]:
        """The bytes of a file that was looked at; a piece that fails is asked for again."""
        from huggingface_hub import hf_hub_url, utils

        url = hf_hub_url(self.repository, file, revision=self.commit, endpoint=self.endpoint)
        for start in range(0, self.sizes[file], PIECE_BYTES):
            stop = min(start + PIECE_BYTES, self.sizes[file])
            part = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
            headers = utils.build_hf_headers(library_name="ndt3_dist", headers=part)

            def ask(headers: dict = headers, size: int = stop - start) -> bytes:
                with self._errors():
                    answer = utils.http_backoff("GET", url, headers=headers, timeout=TIMEOUT_S)
                    utils.hf_raise_for_status(answer)
                if len(answer.content) != size:
                    raise OSError(f"{len(answer.content)} bytes, {size} were asked for")
                return answer.content

            yield remote.with_retries(f"{self.name}/{file}", "fetched", ask, 1, TIMEOUT_S)

    def push(self, files: list[Path]) -> None:
        """Put files into the repository, in one commit on top of the one that was looked at.

        Raises:
            FileNotFoundError, PermissionError: There is no such repository, or not for us.
            StoreFailed: Some of it failed, or somebody was faster.
        """
        from huggingface_hub import CommitOperationAdd

        def commit() -> None:
            added = [CommitOperationAdd(file.name, file) for file in files]
            with self._errors():
                self.api.create_commit(
                    self.repository,
                    added,
                    commit_message="Export of ndt3_dist",
                    revision=self.revision,
                    parent_commit=self.commit,
                )

        remote.with_retries(self.name, "pushed to", commit, 1)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """The library's errors that waiting does not help, as this project's."""
        from huggingface_hub import errors

        try:
            yield
        except errors.GatedRepoError as e:
            said = f"gated; ask for access at {self.endpoint}/{self.repository}, and see HF_TOKEN"
            raise PermissionError(403, said, self.name) from e
        except errors.HfHubHTTPError as e:
            code = e.response.status_code
            if code in (401, 403):  # the hub says 401 of what does not exist, too
                said = f"not there, or not for you ({code}); see its name and HF_TOKEN"
                raise PermissionError(code, said, self.name) from e
            if code == 404:
                said = f"no such model, or it has no revision {self.revision}"
                raise FileNotFoundError(code, said, self.name) from e
            raise
        except errors.HFValidationError as e:
            raise BadInput(f"{self.name}: {e}") from e


def _version(file: Any) -> dict[str, Any]:
    """Bytes of a file, and the sha256 of a large one, the git hash of a small one."""
    version = {"sha256": file.lfs.sha256} if file.lfs else {"blob": file.blob_id}
    return {"size": int(file.size), **version}
