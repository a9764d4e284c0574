"""A lake in a folder of this machine."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from io import BufferedReader, BytesIO, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from biocloud_assets.errors import LakeError
from biocloud_assets.lake.base import DataLake, Deletion, FileInfo, Listing, checked, raise_if_any_remain

_PARTIAL = ".partial"
"""How the name of a file ends that `write` is still writing; it starts with a dot, and after a kill it may stay."""

_IO_ERRORS = frozenset({errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN})
"""The errors of opening a file that may pass by themselves, as those of a file system that is mounted."""


def _is_partial(name: str) -> bool:
    return name.startswith(".") and name.endswith(_PARTIAL)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself
        return False


class FolderLake(DataLake):
    """A lake in a folder of this machine, or of a file system that is mounted in it."""

    def __init__(self, root: str) -> None:
        self.root = str(Path(root).expanduser().absolute())

    def exists(self) -> bool:
        return Path(self.root).is_dir()

    def below(self, path: str) -> DataLake:
        return FolderLake(str(self._path(path)))

    def _path(self, path: str) -> Path:
        return Path(self.root, checked(path))

    def _info(self, path: Path) -> FileInfo:
        stat = path.stat()
        return FileInfo(
            path.relative_to(self.root).as_posix(), stat.st_size, datetime.fromtimestamp(stat.st_mtime_ns / 1e9, UTC)
        )

    def list(self, path: str = "", *, start_after: str = "") -> Listing:
        folder = self._path(path)
        try:
            entries = sorted(folder.iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return Listing((), ())
        except OSError as error:
            raise self._unreadable(folder, error) from error
        later = [entry for entry in entries if entry.name > start_after]
        return Listing(
            tuple(entry.name for entry in later if entry.is_dir()),
            tuple(self._info(entry) for entry in later if entry.is_file() and not _is_partial(entry.name)),
        )

    def walk(self, path: str = "") -> Iterator[FileInfo]:
        yield from self._below(self._path(path), frozenset())

    def _below(self, folder: Path, above: frozenset[tuple[int, int]]) -> Iterator[FileInfo]:
        # Links are followed, as listing one level does; one without a target is no file, and one to a folder
        # that contains it leads to files that are listed already.
        try:
            stat = folder.stat()
            if (stat.st_dev, stat.st_ino) in above:
                return
            # In the order of whole paths, as in S3: a folder's name goes on with "/". `scandir` says what an entry is
            # without another system call.
            with os.scandir(folder) as entries:
                names = sorted(f"{entry.name}/" if _is_folder(entry) else entry.name for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return
        except OSError as error:
            raise self._unreadable(folder, error) from error
        for name in names:
            entry = folder / name
            if name.endswith("/"):
                yield from self._below(entry, above | {(stat.st_dev, stat.st_ino)})
            elif entry.is_file() and not _is_partial(name):
                yield self._info(entry)

    def _unreadable(self, folder: Path, error: OSError) -> LakeError:
        return LakeError(
            str(folder),
            expected="a folder that can be listed",
            found=error.strerror or str(error),
            hint="Check the path and the permissions.",
        )

    def open(self, file: FileInfo) -> BinaryIO:
        parts = file.path.split("/")
        if "\0" in file.path or not {"", ".", ".."}.isdisjoint(parts):
            checked(file.path)
        return _opened(Path(self.root, *parts))

    def read(self, path: str, *, start: int = 0, length: int | None = None) -> bytes:
        with _opened(self._path(path)) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size + start) if start < 0 else start)
            return file.read(-1 if length is None else length)

    def write(self, path: str, data: bytes | BinaryIO, *, labels: Mapping[str, str] | None = None) -> None:
        if labels:
            raise LakeError(
                self.uri(path), expected="an s3:// address", found="a folder, which keeps no labels", hint="Use S3."
            )
        target = self._path(path)
        # The whole file under another name first: a rename is atomic, so no reader ever sees half of it.
        temporary = target.with_name(f".{uuid.uuid4().hex}{_PARTIAL}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("xb") as file:
                shutil.copyfileobj(BytesIO(data) if isinstance(data, bytes) else data, file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
        except OSError as error:
            raise LakeError(
                self.uri(path),
                expected="a place where a file can be written",
                found=error.strerror or str(error),
                hint="Check the path, the permissions and the space that is left.",
            ) from error
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)

    def delete(self, paths: Iterable[str]) -> None:
        failures = []
        for path in paths:
            try:
                self._path(path).unlink(missing_ok=True)
            except OSError as error:
                failures.append(f"{path}: {error.strerror}")
        raise_if_any_remain(self.root, failures)

    def delete_folder(self, path: str, *, first: str | None = None) -> Deletion:
        self._refuse_root(path)
        top = self._path(path)
        if top.is_symlink():  # through it, files outside the root would go
            self.delete([path])
            return Deletion(0, 0)
        if first is not None:
            self.delete([f"{path}/{first}"])
        files = size = 0
        failures: list[str] = []

        def report(error: OSError) -> None:
            if error.errno not in {errno.ENOENT, errno.ENOTEMPTY}:  # gone already, or its own files are reported
                failures.append(f"{Path(error.filename).relative_to(self.root).as_posix()}: {error.strerror}")

        for folder, folders, names in os.walk(top, topdown=False, onerror=report):
            links = [name for name in folders if Path(folder, name).is_symlink()]
            for file in (Path(folder, name) for name in (*names, *links)):
                try:
                    length = file.lstat().st_size
                    file.unlink()
                    files, size = files + 1, size + length
                except OSError as error:
                    report(error)
            try:
                Path(folder).rmdir()
            except OSError as error:
                report(error)
        return Deletion(files, size, tuple(sorted(failures)))


def _opened(path: Path) -> BufferedReader:
    try:
        return BufferedReader(_File(path))
    except OSError as error:
        raise _file_error(path, error, transient=error.errno in _IO_ERRORS) from error


def _file_error(path: Path, error: OSError, *, transient: bool) -> LakeError:
    return LakeError(
        str(path),
        expected="a readable file",
        found=error.strerror or str(error),
        hint=(
            "Repeat this; if it fails again, check the disk or the mounted file system."
            if transient
            else "Check the path and the permissions."
        ),
        transient=transient,
    )


class _File(FileIO):
    """A file that is read. It raises a `LakeError`, because Arrow raises an `OSError` for a damaged file too."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._path = path

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        try:
            return super().seek(offset, whence)
        except OSError as error:
            if offset < 0 and whence == os.SEEK_SET:  # as a damaged file may say
                raise
            raise _file_error(self._path, error, transient=True) from error

    def readinto(self, buffer: Any) -> int | None:
        try:
            return super().readinto(buffer)
        except OSError as error:
            raise _file_error(self._path, error, transient=True) from error

    def readall(self) -> bytes:
        try:
            return super().readall()
        except OSError as error:
            raise _file_error(self._path, error, transient=True) from error
