"""What a batch job that brings packages runs at the processing site: a third wiring. Touches: its parts do, in its folder.

It has its orders as files and answers by files (`edges.transport.transfer_files`); it needs no ops-db and nothing that
has to be installed. Called as `program.pyz BASE_DIR TOKEN`. Told to end (TERM, INT) it breaks off; warned of its end (USR1)
it begins no more.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from ccatwm.core.transfers import TRANSFERS
from ccatwm.core.wire import WireError
from ccatwm.edges.storage.disk import DiskStorage
from ccatwm.edges.storage.receiving import bring_package
from ccatwm.edges.storage.s3 import S3Storage
from ccatwm.edges.transport.transfer_files import (
    LONGEST,
    decode_order,
    decode_stores,
    encode_result,
    numbers_of,
    order_path,
    result_path,
    stores_path,
)
from ccatwm.edges.workfiles.local import LocalWorkFiles
from ccatwm.errors import CcatwmError, StoppedError
from ccatwm.interfaces import Brought, FileWrite, PackageCopy, PackageOrder, PlainEffects, Storage
from ccatwm.settings.schema import LocationSettings


class Stop:
    """What signals have said."""

    def __init__(self) -> None:
        self.at_once = self.soon = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._end)
        signal.signal(signal.SIGUSR1, self._warn)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.at_once = self.soon = True

    def _warn(self, _number: int, _frame: FrameType | None) -> None:
        self.soon = True


def main(arguments: Sequence[str]) -> int:
    """0: an answer was left for every order, or it was told to end. 1: what is wrong stands on stderr."""
    base_dir, token = arguments
    stop = Stop()
    files = LocalWorkFiles(Path(base_dir), PlainEffects())
    try:
        return _bring_all(files, token, stop)
    except (CcatwmError, WireError) as error:
        print(error, file=sys.stderr)
        return 1


def _bring_all(files: LocalWorkFiles, token: str, stop: Stop) -> int:
    told = files.read_files([stores_path(token)])[stores_path(token)]
    if told is None:
        raise CcatwmError(f"{stores_path(token)} is not there: this job was given up")
    places = {name: LocationSettings(**fields) for name, fields in decode_stores(told).items()}
    storages: Mapping[str, Storage] = {
        "disk": DiskStorage(PlainEffects()), "s3": S3Storage(places, os.environ, PlainEffects()),
    }  # fmt: skip
    numbers = numbers_of(files.list_tree(TRANSFERS / token / "orders"))
    answered = files.exists(result_path(token, number) for number in numbers)
    away: dict[str, str] = {}
    code = 0
    for number in numbers:
        if answered[result_path(token, number)]:
            continue  # by a start of this job before this one
        if stop.soon:
            return code
        data = files.read_files([order_path(token, number)], max_bytes=LONGEST)[order_path(token, number)]
        if data is None:
            raise CcatwmError(f"{order_path(token, number)} is not there: this job was given up")
        try:
            order = decode_order(data)
        except WireError as error:  # the others have nothing to do with it
            print(f"{order_path(token, number)} cannot be read: {error}", file=sys.stderr)
            code = 1
            continue
        brought = _bring(files, storages, order, away, stop)
        if isinstance(brought.error, StoppedError):
            return code
        files.write_files([FileWrite(result_path(token, number), encode_result(brought))])
        print(f"{order.name}: {brought.error or 'is there'}", flush=True)
    return code


def _bring(
    files: LocalWorkFiles, storages: Mapping[str, Storage], order: PackageOrder, away: dict[str, str], stop: Stop
) -> Brought:
    @contextmanager
    def watch(_copy: PackageCopy) -> Iterator[Callable[[int], None]]:
        def look(_count: int) -> None:
            if stop.at_once:
                raise StoppedError(f"package {order.name}: the job was told to end")

        yield look

    try:
        return bring_package(files, storages, order, away, watch)
    except Exception as error:  # of this package: the others have nothing to do with it
        traceback.print_exc()
        return Brought(error=CcatwmError(f"package {order.name}: {type(error).__name__}: {error}"))
