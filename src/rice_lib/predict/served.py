"""Files classified by a server that takes their bytes (the ensemble `<model>_bytes`): nothing is decoded here.

with FileClient("triton://127.0.0.1:8000/rice_bytes") as client:
    for record in client.predict_files(paths):
        print(record.path, record.error or record.label)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Self

import numpy as np

from rice_lib.backends.predictor import parse_labels
from rice_lib.backends.triton_connection import (
    IN_FLIGHT,
    PATIENCE_S,
    TIMEOUT_SECONDS,
    Connection,
    ServerError,
    VersionGoneError,
    parse_url,
    version_of,
)
from rice_lib.common.errors import RiceError
from rice_lib.contract.image_file import BadImageError, open_file, read_open
from rice_lib.contract.prediction import Prediction
from rice_lib.contract.record import Record
from rice_lib.predict.inputs import Source, Unreadable, read_ahead

MAX_REQUEST_BYTES = 32 * 2**20
"""Most bytes of files in a request, unless one file alone is larger: below the 64 MiB that Triton takes over HTTP."""

OUTPUTS = ("scores", "reason", "notes", "error")
"""What is asked of the ensemble: float32 `[N, labels]`, and texts `[N, 1]`."""

READERS, AHEAD = 2, 4
"""Threads that read files, and files read before they are asked for."""


@dataclass(frozen=True)
class _File:
    """A file's bytes, or why there are none."""

    path: str
    data: bytes | None = None
    error: str | None = None


_Sent = tuple[list[_File], Future[Any] | None]
"""Files sent together, and the response to come; None where none of them could be read."""


class FileClient:
    """A client of a server's ensemble, for one thread at a time. Use it as a context manager, or call `close`."""

    labels: tuple[str, ...]
    """Class names in the order of the scores."""
    max_batch: int
    """Most files of one request."""
    version: str
    """The version that answers; after `predict_files` it may be a newer one than before."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_SECONDS, patience_s: float = PATIENCE_S) -> None:
        """Connect and read the model's configuration.

        Args:
            url: `triton://host:port/name` over HTTP, `triton+grpc://host:port/name` over gRPC.
            timeout_s: seconds that one attempt of a request may take.
            patience_s: seconds that a server that has answered before may be away.

        Raises:
            RiceError: no server there, no such model, or one that does not take files.
        """
        protocol, address, model = parse_url(url)
        self._connection = Connection(protocol, address, model, timeout_s, patience_s)
        self.name = f"triton/{protocol}"
        self.labels = ()
        try:
            config = self._connection.config()
            outputs = {output["name"] for output in config.get("output", [])}
            if [each["data_type"] for each in config.get("input", [])] != ["TYPE_STRING"] or not outputs.issuperset(
                OUTPUTS
            ):
                raise TakesPixelsError(f"{url}: does not take files; name the ensemble that does, as {model}_bytes")
            self._adopt(config)
        except BaseException:
            self.close()
            raise

    def predict_files(
        self, sources: Iterable[str | os.PathLike[str] | Unreadable], reject: bool = True
    ) -> Iterator[Record]:
        """Classify files as they come.

        Args:
            sources: paths, and names known to stand for no file (`rice_lib.predict.inputs.expand` gives both).
            reject: whether the model's rejection rule is applied.

        Yields:
            One record a source, in order; of a file that could not be read, the reason.

        Raises:
            RiceError: the server was away for longer than `patience_s`.
        """
        batch: list[_File] = []
        in_flight: deque[_Sent] = deque()
        names = (source if isinstance(source, Unreadable) else os.fspath(source) for source in sources)
        # None, at the end or where the next name is late: send and receive what there is
        for file in chain(read_ahead(names, _read, READERS, AHEAD), [None]):
            if batch and (file is None or self._is_full(batch, file)):
                in_flight.append(self._send(batch))
                batch = []
            if file is not None:
                batch.append(file)
            while in_flight and (file is None or len(in_flight) >= IN_FLIGHT):
                yield from self._receive(in_flight.popleft(), reject)

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _is_full(self, batch: list[_File], file: _File) -> bool:
        size = sum(len(other.data or b"") for other in (*batch, file))
        return len(batch) >= self.max_batch or size > MAX_REQUEST_BYTES

    def _send(self, files: list[_File]) -> _Sent:
        data = [file.data for file in files if file.data is not None]
        if not data:
            return files, None
        column = np.empty((len(data), 1), np.object_)
        column[:, 0] = data
        return files, self._connection.infer(self.version, self._input, column, OUTPUTS)

    def _receive(self, sent: _Sent, reject: bool) -> Iterator[Record]:
        """Wait for the response to a request; yields its records."""
        files, future = sent
        try:
            response = future.result() if future is not None else None
        except VersionGoneError as gone:
            self._adopt(gone.config)
            yield from self._receive(self._send(files), reject)
        except ServerError as error:
            if error.temporary:
                raise
            yield from self._separate(files, error, reject)
        else:
            yield from self._records(files, response, reject)

    def _separate(self, files: list[_File], error: ServerError, reject: bool) -> Iterator[Record]:
        """Records of a request that failed as a whole: of one file its error, of several each file's own request."""
        if sum(file.data is not None for file in files) == 1:
            reason = error.why.rpartition(f"in ensemble '{self._connection.model}', ")[2]
            if error.code not in ("400", "INVALID_ARGUMENT"):
                reason += f" [{error.code}]"
            for file in files:
                yield Record(file.path, error=file.error or reason)
            return
        for sent in [self._send([file]) for file in files]:
            yield from self._receive(sent, reject)

    def _records(self, files: list[_File], response: Any, reject: bool) -> Iterator[Record]:
        columns = [] if response is None else [response.as_numpy(name) for name in OUTPUTS]
        rows = zip(*columns, strict=True)
        for file in files:
            if file.data is None:
                yield Record(file.path, error=file.error)
                continue
            scores, *texts = next(rows)
            reason, notes, error = (text[0].decode() for text in texts)
            by_name = dict(zip(self.labels, scores.tolist(), strict=True))
            prediction = None if error else Prediction(by_name, (reason or None) if reject else None)
            yield Record(file.path, prediction, tuple(notes.split("; ")) if notes else (), error or None)

    def _adopt(self, config: dict[str, Any]) -> None:
        """Take labels, limits and version from the model's configuration."""
        where, parameters = self._connection.where, config.get("parameters", {})
        labels = parse_labels(parameters.get("labels", {}).get("string_value"), where)
        if self.labels and labels != self.labels:
            raise RiceError(f"{where}: the server has switched to a model of other labels; run the command again", 1)
        self._input = config["input"][0]["name"]
        self.labels, self.max_batch, self.version = labels, int(config["max_batch_size"]), version_of(config)


class TakesPixelsError(RiceError):
    """The served model is no ensemble for files."""


def open_file_client(spec: str | Path) -> FileClient | None:
    """Open a client; None where the model takes pixels. Raises `RiceError` as `FileClient` does."""
    url = os.fspath(spec)
    if "://" not in url:
        return None
    try:
        return FileClient(url)
    except TakesPixelsError:
        return None


def _read(source: Source) -> _File:
    if isinstance(source, Unreadable):
        return _File(source.path, error=source.error)
    try:
        file, length = open_file(source)
        with file:
            return _File(source, read_open(file, length))
    except BadImageError as error:
        return _File(source, error=str(error))
