"""Files classified by a server that takes their bytes (the ensemble `<model>_bytes`): nothing is decoded here.

with FileClient("triton://127.0.0.1:8000/rice_bytes") as client:
    for record in client.predict_files(paths):
        print(record.path, record.error or record.label)
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np

from rice_lib.backends.triton import (
    IN_FLIGHT,
    PATIENCE_S,
    TIMEOUT_S,
    ServedModel,
    ServerError,
    VersionGoneError,
    parse_url,
)
from rice_lib.common.errors import RiceError
from rice_lib.contract.image_file import BadImageError, read_file
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
    data: bytes = b""
    error: str | None = None


_Sent = tuple[list[_File], Future[Any] | None]
"""Files sent together, and the response to come; None where none of them could be read."""


class FileClient(ServedModel, AbstractContextManager["FileClient"]):
    """A client of a server's ensemble, for one thread at a time. Use it as a context manager, or call `close`."""

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S, patience_s: float = PATIENCE_S) -> None:
        """Connect to a URL as `open_predictor` takes it; raises `RiceError` where no model there takes files.

        An attempt of a request may take `timeout_s` seconds; a server that has answered may be away for `patience_s`.
        """
        super().__init__(*parse_url(url), timeout_s, patience_s)

    def predict_files(self, sources: Iterable[Source], reject: bool = True) -> Iterator[Record]:
        """Classify what `rice_lib.predict.inputs.expand` gives, as it comes; one record a source, in order.

        `reject` applies the model's rejection rule. Raises `RiceError` where the server is away for too long.
        """
        batch: list[_File] = []
        in_flight: deque[_Sent] = deque()
        # None, at the end or where the next name is late: send and receive what there is
        for file in chain(read_ahead(sources, _read, READERS, AHEAD), [None]):
            size = sum(len(each.data) for each in (*batch, file) if each is not None)
            if batch and (file is None or len(batch) >= self.max_batch or size > MAX_REQUEST_BYTES):
                in_flight.append(self._send(batch))
                batch = []
            if file is not None:
                batch.append(file)
            while in_flight and (file is None or len(in_flight) >= IN_FLIGHT):
                yield from self._receive(in_flight.popleft(), reject)

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()

    def _send(self, files: list[_File]) -> _Sent:
        data = [file.data for file in files if not file.error]
        column = np.array([*data, None], np.object_)[:-1, None]  # None: numpy makes texts of bytes alone
        return files, self._connection.infer(self.version, self._input, column, OUTPUTS) if data else None

    def _receive(self, sent: _Sent, reject: bool) -> Iterator[Record]:
        """Wait for the response to a request; yields its records."""
        files, future = sent
        rows: Iterator[Any] = iter(())
        try:
            if future is not None:
                response = future.result()
                rows = zip(*(response.as_numpy(name) for name in OUTPUTS), strict=True)
        except VersionGoneError as gone:
            self._adopt(gone.config)
            yield from self._receive(self._send(files), reject)
            return
        except ServerError as error:
            if error.temporary:
                raise
            if len(files) == 1:
                reason = error.why.rpartition(f"in ensemble '{self._connection.model}', ")[2]
                code = "" if error.code in ("400", "INVALID_ARGUMENT") else f" [{error.code}]"
                files = [_File(files[0].path, error=reason + code)]
            else:  # each file's own request says which of them failed it
                for each in [self._send([file]) for file in files]:
                    yield from self._receive(each, reject)
                return
        for file in files:
            if file.error:
                yield Record(file.path, error=file.error)
                continue
            scores, *texts = next(rows)
            reason, notes, error_text = (text[0].decode() for text in texts)
            by_name = dict(zip(self.labels, scores.tolist(), strict=True))
            prediction = None if error_text else Prediction(by_name, (reason or None) if reject else None)
            yield Record(file.path, prediction, tuple(notes.split("; ")) if notes else (), error_text or None)

    def _adopt(self, config: dict[str, Any]) -> None:
        """Check that the model takes files, too."""
        types = [each["data_type"] for each in config.get("input", [])]
        if types != ["TYPE_STRING"] or not {each["name"] for each in config.get("output", [])} >= set(OUTPUTS):
            where, model = self._connection.where, self._connection.model
            raise RiceError(f"{where}: does not take files; name the ensemble that does, as {model}_bytes")
        super()._adopt(config)


def _read(source: Source) -> _File:
    if isinstance(source, Unreadable):
        return _File(source.path, error=source.error)
    try:
        return _File(source, read_file(source))
    except BadImageError as error:
        return _File(source, error=str(error))
