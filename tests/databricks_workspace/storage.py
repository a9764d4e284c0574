"""DBFS and the files in volumes, as folders of this machine.

Sources: https://docs.databricks.com/api/workspace/dbfs, https://docs.databricks.com/api/workspace/files,
https://docs.databricks.com/aws/en/dbfs/disable-dbfs-root-mounts and the docstrings of databricks-sdk. The volumes are
those that the workspace was created with.
"""

from __future__ import annotations

import base64
import itertools
import shutil
from email.utils import formatdate
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import unquote

from tests.databricks_workspace.api import ApiError, Request, Response, route

_BLOCK_LIMIT = 1024**2  # for one read, put or add-block


class Storage:
    """The storage of a workspace, below `root`: `dbfs/` and `Volumes/`.

    Attributes:
        disable_legacy_dbfs: the setting of a workspace that switches DBFS off, as it is in new workspaces.
    """

    disable_legacy_dbfs = False

    def __init__(self, root: Path, volumes: tuple[str, ...]) -> None:
        self.root = root.resolve()
        self._volumes = [PurePosixPath(volume) for volume in volumes]
        self._handles: dict[int, Path] = {}
        self._next_handle = itertools.count(1)
        for folder in ("dbfs", *(volume.lstrip("/") for volume in volumes)):
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    # DBFS

    def local_path(self, path: str) -> Path:
        """Where a path of DBFS or a volume is on this machine: `dbfs:/a`, `/Volumes/a`."""
        inside = path.removeprefix("dbfs:")
        if not inside.startswith("/") or ".." in PurePosixPath(inside).parts:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Path must be absolute: {path}")
        parts = [part for part in inside.split("/") if part]
        return self.root.joinpath(*([] if parts[:1] == ["Volumes"] else ["dbfs"]), *parts)

    def _dbfs(self, request: Request, *, exists: bool = False) -> Path:
        if self.disable_legacy_dbfs:
            message = f"Public DBFS root is disabled. Access is denied on path: {request.argument('path')}"
            raise ApiError(403, "PERMISSION_DENIED", message)
        path = self.local_path(request.argument("path"))
        if exists and not path.exists():
            message = f"No file or directory exists on path {request.argument('path')}."
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return path

    def _status(self, path: Path) -> dict[str, Any]:
        size = 0 if path.is_dir() else path.stat().st_size
        changed = int(path.stat().st_mtime * 1000)
        inside = "/" + str(path.relative_to(self.root / "dbfs"))
        return {"path": inside, "is_dir": path.is_dir(), "file_size": size, "modification_time": changed}

    def _create(self, request: Request, content: bytes) -> Path:
        path = self._dbfs(request)
        if path.is_dir() or (path.exists() and not request.flag("overwrite")):
            message = f"A file or directory already exists at the input path {request.argument('path')}."
            raise ApiError(400, "RESOURCE_ALREADY_EXISTS", message)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def _block(self, request: Request, name: str) -> bytes:
        content = base64.b64decode(request.arguments.get(name) or "")
        if len(content) > _BLOCK_LIMIT:
            raise ApiError(400, "MAX_BLOCK_SIZE_EXCEEDED", f"A block has at most {_BLOCK_LIMIT} bytes.")
        return content

    def _handle(self, request: Request) -> Path:
        if int(request.argument("handle")) not in self._handles:
            message = f"No stream with handle {request.argument('handle')} is open."
            raise ApiError(404, "RESOURCE_DOES_NOT_EXIST", message)
        return self._handles[int(request.argument("handle"))]

    @route("POST", r"2\.0/dbfs/mkdirs")
    def _mkdirs(self, request: Request) -> None:
        self._dbfs(request).mkdir(parents=True, exist_ok=True)

    @route("POST", r"2\.0/dbfs/put")
    def _put(self, request: Request) -> None:
        self._create(request, self._block(request, "contents"))

    @route("POST", r"2\.0/dbfs/create")
    def _open_stream(self, request: Request) -> Any:
        path = self._create(request, b"")
        handle = next(self._next_handle)
        self._handles[handle] = path
        return {"handle": handle}

    @route("POST", r"2\.0/dbfs/add-block")
    def _add_block(self, request: Request) -> None:
        with self._handle(request).open("ab") as file:
            file.write(self._block(request, "data"))

    @route("POST", r"2\.0/dbfs/close")
    def _close_stream(self, request: Request) -> None:
        self._handle(request)
        del self._handles[int(request.argument("handle"))]

    @route("GET", r"2\.0/dbfs/read")
    def _read(self, request: Request) -> Any:
        path = self._dbfs(request, exists=True)
        offset, length = (int(request.arguments.get(name) or 0) for name in ("offset", "length"))
        if length > _BLOCK_LIMIT:
            raise ApiError(400, "MAX_READ_SIZE_EXCEEDED", f"One read has at most {_BLOCK_LIMIT} bytes.")
        if path.is_dir() or offset < 0 or length < 0:
            raise ApiError(400, "INVALID_PARAMETER_VALUE", f"Can't read {path.name} from {offset}, {length} bytes.")
        with path.open("rb") as file:
            file.seek(offset)
            content = file.read(length or _BLOCK_LIMIT // 2)
        return {"bytes_read": len(content), "data": base64.b64encode(content).decode()}

    @route("GET", r"2\.0/dbfs/get-status")
    def _get_status(self, request: Request) -> Any:
        return self._status(self._dbfs(request, exists=True))

    @route("GET", r"2\.0/dbfs/list")
    def _list_dbfs(self, request: Request) -> Any:
        path = self._dbfs(request, exists=True)
        return {"files": [self._status(file) for file in (sorted(path.iterdir()) if path.is_dir() else [path])]}

    @route("POST", r"2\.0/dbfs/delete")
    def _delete(self, request: Request) -> None:
        path = self._dbfs(request, exists=True)
        if not path.is_dir():
            path.unlink()
        elif request.flag("recursive"):
            shutil.rmtree(path)
        elif any(path.iterdir()):
            raise ApiError(400, "IO_ERROR", f"The directory {request.argument('path')} is not empty.")
        else:
            path.rmdir()

    # Files in volumes

    def _volume_path(self, path: str, kind: Literal["file", "directory"] | None = None) -> Path:
        path = unquote(path)
        if not any(PurePosixPath(path).is_relative_to(volume) for volume in self._volumes):
            raise ApiError(404, "NOT_FOUND", f"The volume of {path} does not exist or isn't accessible.")
        found = self.local_path(path)
        if kind is not None and not (found.is_dir() if kind == "directory" else found.is_file()):
            raise ApiError(404, "NOT_FOUND", f"The {kind} being accessed is not found: {path}")
        return found

    @route("PUT", r"2\.0/fs/files(/.+)")
    def _upload(self, request: Request, path: str) -> Response:
        file = self._volume_path(path)
        if file.is_dir() or (file.exists() and request.query.get("overwrite", "true") == "false"):
            raise ApiError(409, "ALREADY_EXISTS", f"The file being created already exists: {unquote(path)}")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(request.content)
        return Response(204, content=b"")

    @route("GET", r"2\.0/fs/files(/.+)")
    def _download(self, request: Request, path: str) -> Response:
        file = self._volume_path(path, "file")
        headers = {"Last-Modified": formatdate(file.stat().st_mtime, usegmt=True)}
        return Response(206 if request.start else 200, content=file.read_bytes()[request.start :], headers=headers)

    @route("HEAD", r"2\.0/fs/files(/.+)")
    def _file_metadata(self, request: Request, path: str) -> Response:
        return self._download(request, path)

    @route("DELETE", r"2\.0/fs/files(/.+)")
    def _delete_file(self, request: Request, path: str) -> Response:
        self._volume_path(path, "file").unlink()
        return Response(204, content=b"")

    @route("PUT", r"2\.0/fs/directories(/.+)")
    def _make_directory(self, request: Request, path: str) -> Response:
        self._volume_path(path).mkdir(parents=True, exist_ok=True)
        return Response(204, content=b"")

    @route("HEAD", r"2\.0/fs/directories(/.+)")
    def _directory_metadata(self, request: Request, path: str) -> Response:
        self._volume_path(path, "directory")
        return Response(content=b"")

    @route("DELETE", r"2\.0/fs/directories(/.+)")
    def _delete_directory(self, request: Request, path: str) -> Response:
        directory = self._volume_path(path, "directory")
        if any(directory.iterdir()):
            raise ApiError(400, "FILES_API_DIRECTORY_IS_NOT_EMPTY", f"The directory is not empty: {unquote(path)}")
        directory.rmdir()
        return Response(204, content=b"")

    @route("GET", r"2\.0/fs/directories(/.+)")
    def _list_directory(self, request: Request, path: str) -> Any:
        entries = sorted(self._volume_path(path, "directory").iterdir())
        start, size = int(request.query.get("page_token") or 0), int(request.query.get("page_size") or 1000)
        answer: dict[str, Any] = {
            "contents": [
                {
                    "path": f"{unquote(path).rstrip('/')}/{entry.name}",
                    "name": entry.name,
                    "is_directory": entry.is_dir(),
                    "last_modified": int(entry.stat().st_mtime * 1000),
                    **({} if entry.is_dir() else {"file_size": entry.stat().st_size}),
                }
                for entry in entries[start : start + size]
            ]
        }
        if start + size < len(entries):
            answer["next_page_token"] = str(start + size)
        return answer
