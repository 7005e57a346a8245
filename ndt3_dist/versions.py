"""What an S3 bucket keeps beside its objects: old versions, delete markers, parts of uploads.

Only `storage` imports this; a root is a URL such as `s3://bucket/folder`.
"""

import errno
from collections.abc import Iterator

from ndt3_dist.errors import StoreFailed
from ndt3_dist.remote import filesystem, with_retries

PAGE = 1000
"""Versions of one request, at most what S3 takes."""
FINAL = ("AccessDenied", "InvalidRequest", "MethodNotAllowed")
"""Refusals that the same request gets again: no permission, or a lock on the object."""


def forget(root: str) -> list[str]:
    """Delete what a bucket keeps below a folder beside the objects that are there now.

    Nobody else may write there meanwhile. Old versions go before the markers that hide them, so
    that none comes to light again.

    Returns:
        What remains and why, a line each.
    """
    if root.split("://", 1)[0] not in ("s3", "s3a"):
        return [f"what a store other than S3 keeps of {root} beside its objects"]
    bucket, key, _ = filesystem(root).split_path(root)
    where = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/" if key else ""}
    left: dict[str, str] = {}  # key -> why
    old, markers, lines = [], [], []
    try:
        for page in _pages(root, "list_object_versions", "VersionId", where | {"MaxKeys": PAGE}):
            found = [v for v in page.get("Versions", []) if not v["IsLatest"]]
            old += [(v["Key"], v["VersionId"]) for v in found]
            markers += [(m["Key"], m["VersionId"]) for m in page.get("DeleteMarkers", [])]
        _delete(root, bucket, old, left)
        _delete(root, bucket, [m for m in markers if m[0] not in left], left)
    except (PermissionError, StoreFailed) as e:
        lines.append(f"old versions below {root}, if there are any: they cannot be listed ({e})")
    if left:
        first, why = next(iter(left.items()))
        lines.append(f"old versions of {len(left)} objects below {root}, such as {first} ({why})")
    try:
        for page in _pages(root, "list_multipart_uploads", "UploadId", where):
            for upload in page.get("Uploads", []):
                what = {"Key": upload["Key"], "UploadId": upload["UploadId"]}
                _call(root, "removed", "abort_multipart_upload", Bucket=bucket, **what)
    except (PermissionError, StoreFailed) as e:
        lines.append(f"unfinished uploads below {root}, if there are any ({e})")
    return lines


def _call(root: str, what: str, method: str, **arguments) -> dict:
    """A request of the S3 API; nothing where a store knows no such request or thing."""

    def request() -> dict:
        try:
            return filesystem(root).call_s3(method, **arguments)
        except FileNotFoundError:
            return {}
        except OSError as e:
            if e.errno == errno.ENOSYS:
                return {}
            raise

    return with_retries(root, what, request)


def _pages(root: str, method: str, second: str, where: dict) -> Iterator[dict]:
    """The pages of a listing, which goes on behind a key and a second marker."""
    after: dict = {}
    while True:
        page = _call(root, "listed", method, **where, **after)
        yield page
        if not page.get("IsTruncated"):
            return
        found = {name: page.get(f"Next{name}Marker") for name in ("Key", second)}
        after = {f"{name}Marker": value for name, value in found.items() if value}


def _delete(root: str, bucket: str, versions: list, left: dict[str, str]) -> None:
    """Delete (key, version id); keys of those that are refused go to `left`."""
    for start in range(0, len(versions), PAGE):
        _delete_some(root, bucket, set(versions[start : start + PAGE]), left)


def _delete_some(root: str, bucket: str, waiting: set, left: dict[str, str]) -> None:
    def request() -> None:
        if not waiting:
            return
        named = [{"Key": key, "VersionId": version} for key, version in sorted(waiting)]
        delete = {"Objects": named, "Quiet": True}
        answer = filesystem(root).call_s3("delete_objects", Bucket=bucket, Delete=delete)
        refused = answer.get("Errors", [])
        waiting.intersection_update({(e["Key"], e.get("VersionId")) for e in refused})
        for error in refused:
            if error.get("Code") in FINAL:
                left[error["Key"]] = f"{error['Code']}: {error.get('Message')}"
                waiting.discard((error["Key"], error.get("VersionId")))
        if waiting:
            raise OSError(f"{len(waiting)} versions not deleted, such as of {min(waiting)[0]}")

    try:
        with_retries(root, "removed", request)
    except (PermissionError, StoreFailed) as e:
        left.update({key: str(e) for key, _ in waiting})
