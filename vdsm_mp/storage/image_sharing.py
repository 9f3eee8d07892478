# SPDX-License-Identifier: Apache-2.0
"""Image.download and Image.upload: one volume's file from or to an HTTP server of an engine's choice, as an SPM task.

The bytes go as they are, so a COW volume is a qcow2 file on the wire. The server must answer with 2xx itself: nobody
is redirected, and what https is must be provable by the host's certificates. Header values are the engine's secrets
and are told nowhere.
"""

import logging
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from vdsm_mp.api.errors_volume import CopyImageFailed, InvalidVolumeParameter, SharedVolumeNotWritable
from vdsm_mp.api.image_sharing import DownloadImage, ImageSharing, UploadImage
from vdsm_mp.api.ovf_store import TransferFailed
from vdsm_mp.api.verb import handles
from vdsm_mp.common.clock import mono_s
from vdsm_mp.storage.domain_file import FileDomain
from vdsm_mp.storage.image_prepare import check_chain
from vdsm_mp.storage.volume_access import Volumes, key_of
from vdsm_mp.storage.volume_file import ImageFiles, change_metadata, read_image, volume_path
from vdsm_mp.storage.volume_spec import COW_OVERHEAD
from vdsm_mp.tasks.progress import Progress
from vdsm_mp.tasks.run import TaskRun

if TYPE_CHECKING:
    # Else where it is needed: with all that it has of mail it is a megabyte, and few hosts ever share an image.
    import http.client

_log = logging.getLogger("storage.sharing")

#: How long a server may take to be there, be silent, and need for all of it.
_CONNECT_S = 10.0
_SILENCE_S = 60.0
_WHOLE_S = 24 * 3600.0
_PIECE = 512 * 1024
_MIB = 2**20
_MAX_HEADERS = 64
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8192}")
#: About the connection, which is ours.
_OURS = frozenset({"host", "connection", "content-length", "transfer-encoding", "expect", "te", "upgrade"})


@handles(DownloadImage)
def download(volumes: Volumes, ask: DownloadImage) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    server = _Server(ask.method)
    volume_id = _writable(read_image(domain, ask.image_id), ask.volume_id)

    def job(run: TaskRun) -> None:
        with volumes.changing_as_spm(f"downloadImage {volume_id}", domain, ask.image_id, progress=run.progress):
            _writable(read_image(domain, ask.image_id), volume_id)
            _fetch(server, domain, ask.image_id, volume_id, run.progress)

    return volumes.tasks.start("downloadImage", job, spm=True, key=key_of(ask.image_id))


@handles(UploadImage)
def upload(volumes: Volumes, ask: UploadImage) -> str:
    domain = volumes.of_spm(ask.pool_id, ask.sd_id)
    server = _Server(ask.method)
    volume_id = _only_volume(read_image(domain, ask.image_id), ask.volume_id)

    def job(run: TaskRun) -> None:
        with volumes.using(f"uploadImage {volume_id}", domain, ask.image_id):
            image = read_image(domain, ask.image_id)
            check_chain(domain, image, [_only_volume(image, volume_id)])
            _send(server, domain, ask.image_id, volume_id, image.stat(volume_id).size_bytes, run.progress)

    return volumes.tasks.start("uploadImage", job, spm=True, key=key_of(ask.image_id))


def _only_volume(image: ImageFiles, volume_id: str | None) -> str:
    """Raises: ImageDoesNotExist, VolumeDoesNotExist, ImageIsNotLegalChain, CopyImageFailed (261: it has layers)."""
    chain = image.chain() if volume_id is None else image.chain_to(volume_id)
    if len(chain) != 1 or image.children(chain[0]):
        raise CopyImageFailed(image.image_id, "an image of more than one volume is not moved by HTTP")
    return chain[0]


def _writable(image: ImageFiles, volume_id: str | None) -> str:
    """Raises: as `_only_volume`, SharedVolumeNotWritable."""
    found = _only_volume(image, volume_id)
    if image.metadata(found).shared:
        raise SharedVolumeNotWritable(found)
    return found


class _Server:
    """Where to, with which headers; checked. Raises: InvalidVolumeParameter."""

    def __init__(self, sharing: ImageSharing) -> None:
        if sharing.method != "http":
            raise InvalidVolumeParameter("methodArgs", f"method {sharing.method!r} is not http")
        try:
            url = urlsplit(sharing.url)
            self._port = url.port
        except ValueError as e:
            raise InvalidVolumeParameter("url", str(e)) from None
        if url.scheme not in ("http", "https") or not url.hostname or url.username is not None:
            raise InvalidVolumeParameter("url", "http://HOST/… or https://HOST/… without a user is wanted")
        self._secure = url.scheme == "https"
        self._host = url.hostname
        self._target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if not re.fullmatch(r"[\x21-\x7e]{1,8192}", self._target):
            raise InvalidVolumeParameter("url", "it holds characters that must be quoted")
        self._headers = _checked_headers(sharing.headers)
        self.name = f"{url.scheme}://{url.hostname}{f':{url.port}' if url.port else ''}{url.path}"

    @contextmanager
    def request(
        self, method: str, progress: Progress, length: int | None = None
    ) -> Iterator["http.client.HTTPConnection"]:
        """The headers are sent; `stop` of the task ends the connection. Raises: OSError, HTTPException, TaskAborted."""
        import http.client

        if self._secure:
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                self._host, self._port, timeout=_CONNECT_S, context=ssl.create_default_context()
            )
        else:
            connection = http.client.HTTPConnection(self._host, self._port, timeout=_CONNECT_S)
        try:
            connection.connect()
            sock = connection.sock
            sock.settimeout(_SILENCE_S)
            with progress.interruptible(lambda: _cut(sock)):
                connection.putrequest(method, self._target, skip_accept_encoding=True)
                for name, value in self._headers.items():
                    connection.putheader(name, value.encode("latin-1"))
                if length is not None:
                    connection.putheader("Content-Length", str(length))
                connection.endheaders()
                yield connection
        finally:
            connection.close()


def _checked_headers(headers: dict[str, str]) -> dict[str, str]:
    if len(headers) > _MAX_HEADERS:
        raise InvalidVolumeParameter("headers", f"more than {_MAX_HEADERS}")
    for name, value in headers.items():
        if not _NAME.fullmatch(name) or not _VALUE.fullmatch(value):
            raise InvalidVolumeParameter("headers", f"{name[:40]!r} cannot be sent")
    return {name: value for name, value in headers.items() if name.lower() not in _OURS}


def _cut(sock: socket.socket) -> None:
    try:
        sock.shutdown(socket.SHUT_RDWR)
    except OSError:  # it is closed already
        return


@contextmanager
def _as_failure(server: _Server, volume_id: str, progress: Progress) -> Iterator[None]:
    import http.client

    try:
        yield
    except (OSError, http.client.HTTPException, ValueError) as e:
        progress.check()  # the task was stopped: that is why
        raise TransferFailed(volume_id, f"{server.name}: {e or type(e).__name__}") from e


def _go_on(progress: Progress, until_mono: float) -> None:
    """Raises: TaskAborted, TimeoutError (little by little is too slow in the end, too)."""
    progress.check()
    if mono_s() > until_mono:
        raise TimeoutError(f"not done within {_WHOLE_S:g} s")


def _fetch(server: _Server, domain: FileDomain, image_id: str, volume_id: str, progress: Progress) -> None:
    """Half of it leaves the volume ILLEGAL. Raises: TransferFailed, ImageIsNotLegalChain, TaskAborted, …"""
    path = volume_path(image_id, volume_id)
    image = read_image(domain, image_id)
    metadata = image.metadata(volume_id)
    limit = image.stat(volume_id).size_bytes
    if metadata.cow:
        limit = int(metadata.capacity * COW_OVERHEAD) + _MIB
    with _as_failure(server, volume_id, progress), server.request("GET", progress) as connection:
        answer = connection.getresponse()
        length = _length_of(answer, volume_id, server)
        if length is not None and length > limit:
            raise TransferFailed(volume_id, f"{server.name} has {length} bytes, the volume has room for {limit}")
        change_metadata(domain, image_id, volume_id, legality="ILLEGAL")
        if metadata.cow:
            domain.io.truncate(path, 0)
        done, until = 0, mono_s() + _WHOLE_S
        while data := answer.read1(_PIECE):
            _go_on(progress, until)
            if done + len(data) > limit:
                raise TransferFailed(volume_id, f"{server.name} sends more than {limit} bytes")
            domain.io.write(path, data, offset=done)
            done += len(data)
            if length:
                progress.at(100.0 * done / length)
        progress.check()
        if length is not None and done != length:
            raise TransferFailed(volume_id, f"{server.name} sent {done} of {length} bytes")
    domain.io.fsync(path)
    check_chain(domain, read_image(domain, image_id), [volume_id])
    change_metadata(domain, image_id, volume_id, legality="LEGAL")
    _log.info("volume %s: %d bytes from %s", volume_id, done, server.name)


def _length_of(answer: "http.client.HTTPResponse", volume_id: str, server: _Server) -> int | None:
    """How many bytes will come, None = not told. Raises: TransferFailed (it is refused)."""
    if not 200 <= answer.status < 300:
        raise TransferFailed(volume_id, f"{server.name} answers {answer.status} {answer.reason}")
    if answer.length is not None:
        return answer.length
    told = answer.getheader("X-Image-Meta-Size", "")  # by Glance
    return int(told) if told.isascii() and told.isdigit() and len(told) < 19 else None


def _send(server: _Server, domain: FileDomain, image_id: str, volume_id: str, size: int, progress: Progress) -> None:
    """Raises: TransferFailed, TaskAborted, storage errors."""
    path = volume_path(image_id, volume_id)
    with _as_failure(server, volume_id, progress), server.request("PUT", progress, size) as connection:
        done, until = 0, mono_s() + _WHOLE_S
        while done < size:
            _go_on(progress, until)
            data = domain.io.read(path, offset=done, length=min(_PIECE, size - done))
            if not data:
                raise TransferFailed(volume_id, f"only {done} of {size} bytes can be read")
            connection.send(data)
            done += len(data)
            progress.at(100.0 * done / size)
        answer = connection.getresponse()
        if not 200 <= answer.status < 300:
            raise TransferFailed(volume_id, f"{server.name} answers {answer.status} {answer.reason}")
    _log.info("volume %s: %d bytes to %s", volume_id, size, server.name)
