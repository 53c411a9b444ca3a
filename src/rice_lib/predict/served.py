"""Files told by a server that takes their bytes (the ensemble `<model>_bytes`): nothing is decoded here.

    with FileClient("triton://127.0.0.1:8000/rice_bytes") as teller:
        for result in teller.tell(paths):
            print(result.path, result.error or result.label)

Needs numpy and tritonclient. A file is read while those before it are on their way; requests are sent again while the
server is away (`rice_lib.backends.triton_connection`).
"""

from __future__ import annotations

import json
import os
import queue
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rice_lib.backends.triton_connection import (
    IN_FLIGHT,
    TIMEOUT_SECONDS,
    Connection,
    import_tritonclient,
    parse_url,
    version_of,
)
from rice_lib.backends.triton_retry import PATIENCE_S, Kind, ServerError, VersionGoneError
from rice_lib.common.errors import RiceError
from rice_lib.contract.image_file import BadImageError, open_file, read_open
from rice_lib.contract.prediction import Prediction
from rice_lib.contract.record import Record

if TYPE_CHECKING:
    from rice_lib.predict.inputs import Unreadable

MAX_REQUEST_BYTES = 32 * 2**20
"""A request holds no more of files, unless one alone is larger: below the 64 MiB that Triton takes over HTTP."""

LATE_S = 0.05
"""How long to wait for the next file before those that are there are told without it."""

OUTPUTS = ("scores", "reason", "notes", "error")
"""What is asked of the ensemble: float32 `[N, labels]`, and texts `[N, 1]`."""


@dataclass(frozen=True)
class _File:
    """A file's bytes, or why there are none."""

    path: str
    data: bytes | None = None
    error: str | None = None


@dataclass(frozen=True)
class _Sent:
    """Files whose bytes are on their way; no answer is awaited where none could be read."""

    files: list[_File]
    answer: Future[Any] | None


class TakesPixelsError(RiceError):
    """A served model that is no ensemble for files."""


class FileClient:
    """Tells files by a server's ensemble. For one thread at a time; a context manager, or call `close`."""

    labels: tuple[str, ...]
    """Class names in the order of the scores."""
    max_batch: int
    """Most files of one request."""
    version: str
    """The version that answers; after `tell` it may be a newer one than before."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_SECONDS, patience_s: float = PATIENCE_S) -> None:
        """Connect and read the model's configuration.

        Args:
            url: `triton://host:port/name` over HTTP, `triton+grpc://host:port/name` over gRPC.
            timeout_s: seconds that one try of a request may take.
            patience_s: seconds that a server that has answered may be away before a request is given up.

        Raises:
            RiceError: no server there, no such model, or one that does not take files.
        """
        protocol, address, model = parse_url(url)
        library = import_tritonclient(protocol)
        self._connection = Connection(library, protocol, address, model, timeout_s=timeout_s, patience_s=patience_s)
        self.name = f"triton/{protocol}"
        self.labels = ()
        try:
            config = self._connection.config()
            if not takes_files(config):
                raise TakesPixelsError(f"{url}: does not take files; name the ensemble that does, as {model}_bytes")
            self._take(config)
        except BaseException:
            self.close()
            raise

    def predict_files(
        self, sources: Iterable[str | os.PathLike[str] | Unreadable], reject: bool = True
    ) -> Iterator[Record]:
        """Tell files as they come.

        Args:
            sources: paths, and names known to stand for no file (`rice_lib.predict.inputs.expand` gives both).
            reject: whether what the model's decision refuses is told as unknown.

        Yields:
            one result a source, in their order; of a file that could not be read, the reason.

        Raises:
            RiceError: the server was away for longer than patience allows.
        """
        batch: list[_File] = []
        sent: deque[_Sent] = deque()
        for file in _read_ahead(sources):
            if batch and (file is None or self._is_full(batch, file)):
                sent.append(self._send(batch))
                batch = []
            if file is not None:
                batch.append(file)
            while sent and (file is None or len(sent) >= IN_FLIGHT):
                yield from self._finish(sent.popleft(), reject)
        if batch:
            sent.append(self._send(batch))
        while sent:
            yield from self._finish(sent.popleft(), reject)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()

    def _is_full(self, batch: list[_File], file: _File) -> bool:
        held = sum(len(other.data or b"") for other in (*batch, file))
        return len(batch) >= self.max_batch or held > MAX_REQUEST_BYTES

    def _send(self, files: list[_File]) -> _Sent:
        data = [file.data for file in files if file.data is not None]
        if not data:
            return _Sent(files, None)
        column = np.empty((len(data), 1), np.object_)
        column[:, 0] = data
        wanted = dict.fromkeys(OUTPUTS, 0)
        return _Sent(files, self._connection.infer(self.version, self._input, column, wanted))

    def _finish(self, sent: _Sent, reject: bool) -> Iterator[Record]:
        """Results of a request, once it is answered."""
        try:
            answer = sent.answer.result() if sent.answer is not None else None
        except VersionGoneError as gone:
            self._take(gone.config)
            yield from self._finish(self._send(sent.files), reject)
        except ServerError as error:
            if error.kind is not Kind.REFUSED:
                raise
            yield from self._refused(sent.files, error, reject)
        else:
            yield from self._read(sent.files, answer, reject)

    def _refused(self, files: list[_File], error: ServerError, reject: bool) -> Iterator[Record]:
        """Of a request that was refused as a whole: its one file's reason, or what comes of each file alone."""
        if sum(file.data is not None for file in files) == 1:
            reason = error.why.removesuffix(" [400]").removesuffix(" [StatusCode.INVALID_ARGUMENT]")
            reason = reason.rpartition(f"in ensemble '{self._connection.model}', ")[2]
            for file in files:
                yield Record(file.path, error=file.error or reason)
            return
        for sent in [self._send([file]) for file in files]:
            yield from self._finish(sent, reject)

    def _read(self, files: list[_File], answer: Any, reject: bool) -> Iterator[Record]:
        columns = [] if answer is None else [answer.as_numpy(name) for name in OUTPUTS]
        rows = zip(*columns, strict=True)
        for file in files:
            if file.data is None:
                yield Record(file.path, error=file.error)
                continue
            scores, *texts = next(rows)
            reason, notes, error = (text[0].decode() for text in texts)
            noted = tuple(notes.split("; ")) if notes else ()
            if error:
                yield Record(file.path, notes=noted, error=error)
            else:
                scores_by_name = dict(zip(self.labels, scores.tolist(), strict=True))
                yield Record(file.path, Prediction(scores_by_name, (reason or None) if reject else None), noted)

    def _take(self, config: dict[str, Any]) -> None:
        """Make what a configuration says of the model one's own."""
        where = self._connection.where
        labels = tuple(json.loads(config["parameters"]["labels"]["string_value"]))
        if self.labels and labels != self.labels:
            raise RiceError(f"{where}: the server went over to a model of other labels; start again", 1)
        self._input = config["input"][0]["name"]
        self.labels, self.max_batch, self.version = labels, int(config["max_batch_size"]), version_of(config)


def open_file_client(spec: str | Path) -> FileClient | None:
    """A teller, or None where the model that the URL names takes pixels; raises `RiceError` as `FileClient` does."""
    url = os.fspath(spec)
    if "://" not in url:
        return None
    try:
        return FileClient(url)
    except TakesPixelsError:
        return None


def takes_files(config: dict[str, Any]) -> bool:
    """Whether a model's configuration is that of an ensemble of this project: bytes of files in, varieties out."""
    inputs, outputs = config.get("input", []), {output["name"] for output in config.get("output", [])}
    texts = [entry["data_type"] for entry in inputs] == ["TYPE_STRING"]
    return texts and outputs.issuperset(OUTPUTS) and "labels" in config.get("parameters", {})


def _read_ahead(sources: Iterable[str | os.PathLike[str] | Unreadable]) -> Iterator[_File | None]:
    """Files read by a thread, two ahead; None where the next is not there yet (a list that somebody types)."""
    ahead: queue.Queue[_File | BaseException | None] = queue.Queue(maxsize=2)
    stopped = threading.Event()

    def put(item: _File | BaseException | None) -> None:
        while not stopped.is_set():
            try:
                return ahead.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for source in sources:
                put(_read(source))
                if stopped.is_set():
                    return
            put(None)
        except BaseException as error:  # handed over to the thread that takes the files, which raises it
            put(error)

    # a daemon: one that is blocked on a terminal's stdin must not keep the process from ending
    threading.Thread(target=read, name="read", daemon=True).start()
    try:
        while True:
            try:
                item = ahead.get(timeout=LATE_S)
            except queue.Empty:
                yield None
                item = ahead.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def _read(source: str | os.PathLike[str] | Unreadable) -> _File:
    if not isinstance(source, str | os.PathLike):
        return _File(source.path, error=source.error)
    path = os.fspath(source)
    try:
        file, length = open_file(path)
        with file:
            return _File(path, read_open(file, length))
    except BadImageError as error:
        return _File(path, error=str(error))
