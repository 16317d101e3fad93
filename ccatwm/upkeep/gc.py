"""Takes away what nobody needs any more: first into the trash, later for good. Touches: the ops-db, files below the base.

What may go is `core.retention`'s to say. Of every folder that goes the row comes first, then the rename into `.trash/`,
and nothing is deleted before the grace is over. Whoever dies in between leaves a row that says how far it was: the next one
looks where the folder is, and goes on.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import PurePosixPath
from typing import Any

import sqlalchemy as sa

from ccatwm.core.cache import Amount
from ccatwm.core.integrity import list_lost
from ccatwm.core.latest import latest_target
from ccatwm.core.retention import (
    Going,
    Kind,
    Retention,
    excess_logs,
    logs_going,
    products_going,
    scratch_going,
)
from ccatwm.core.wording import GB, count_text, size_text, utc_text
from ccatwm.edges.opsdb.engine import Database
from ccatwm.edges.opsdb.stores import integrity, latest, leases, publishing, staged, sub_groups, trash
from ccatwm.edges.opsdb.stores import retention as store
from ccatwm.edges.opsdb.stores.change_log import record_change
from ccatwm.edges.opsdb.stores.retention import Place, StepKept
from ccatwm.edges.opsdb.stores.trash import Trashed
from ccatwm.errors import NO_FAULT_OF_A_RUN, CcatwmError, NoSpaceError, OtherFileSystemError, UsageError
from ccatwm.interfaces import TreeSize, WorkFiles
from ccatwm.upkeep.set_records import list_recorded, read_recorded

log = logging.getLogger("ccatwm.upkeep.gc")
TOGETHER = 50  # folders that are doomed in one transaction, and emptied in one
MAX_NAMED = 5
NOTHING = TreeSize(0, 0, 0, 0, 0)
TRASH = PurePosixPath(trash.FOLDER)  # made while there is room: a folder can be moved into it on a disk that is full


@dataclass(frozen=True)
class Garbage:
    """What `gc` works on, and by which rules where steps say nothing."""

    database: Database
    files: WorkFiles
    location: str
    retention: Retention
    grace: timedelta
    cache_max_gb: float | None
    now: datetime
    actor: str
    host: str


@dataclass(frozen=True)
class Doomed:
    """A folder that may go. `size` None: it is not there."""

    kind: Kind
    place: Place
    going: Going
    size: TreeSize | None = None
    whole: bool = True  # products: all are as recorded

    @property
    def is_missing(self) -> bool:
        """An attempt may well have no scratch and no logs; its products should be there."""
        return self.size is None and self.kind is Kind.PRODUCTS

    @property
    def is_changed(self) -> bool:
        return self.size is not None and not self.whole


@dataclass(frozen=True)
class Done:
    """What was done with one folder, or with many: `kind` is done, waiting or failed."""

    kind: str
    outcome: str
    reason: str
    run: int | None = None
    pipeline: str | None = None
    step: str | None = None
    sub_group: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Reason:
    """All that goes by one rule. Bytes of files; freed are those without another name (a hard link) elsewhere."""

    kind: Kind
    rule: str
    runs: int
    folders: int
    size: TreeSize


@dataclass(frozen=True)
class KeptForSets:
    """What stays for published sets that have a record on disk and that the ops-db does not know, as after a restore.

    `runs`: of their products; None where a record cannot be read, and any run may be meant. `left`: those of them of which
    something would go else."""

    sets: Sequence[str] = ()
    runs: Collection[int] | None = frozenset()
    left: Collection[int] = frozenset()

    def holds(self, doomed: Doomed) -> bool:
        """As of a set that is known, products stay, and logs."""
        return doomed.kind is not Kind.SCRATCH and (self.runs is None or doomed.place.run in self.runs)


@dataclass(frozen=True)
class GcPlan:
    """What goes into the trash, and what is deleted of what lies there since before. `missing`: products that would go, and
    are not at their place; `changed`: not all are as recorded. They are no business of `gc`, but of `fsck`."""

    going: Sequence[Doomed] = ()
    missing: Sequence[Doomed] = ()
    changed: Sequence[Doomed] = ()
    emptied: Sequence[Trashed] = ()
    waiting: Sequence[Trashed] = ()  # in the trash, its grace not over
    cache_bytes: int | None = None  # where it is more than it may be
    kept: KeptForSets = field(default_factory=KeptForSets)

    def reasons(self) -> list[Reason]:
        found: dict[tuple[Kind, str], list[Doomed]] = {}
        for doomed in self.going:
            found.setdefault((doomed.kind, doomed.going.rule), []).append(doomed)
        return [
            Reason(kind, rule, len({d.place.run for d in some}), len(some), _sum(d.size for d in some))
            for (kind, rule), some in sorted(found.items())
        ]


def _sum(sizes: Any) -> TreeSize:
    there = [size for size in sizes if size is not None]
    return TreeSize(
        sum(s.size_bytes for s in there), sum(s.inodes for s in there), sum(s.freed_bytes for s in there),
        sum(s.freed_inodes for s in there), sum(s.files for s in there),
    )  # fmt: skip


def collect_garbage(
    garbage: Garbage, told: Callable[[GcPlan], None], *, dry_run: bool, limit: int | None = None
) -> Iterator[Done]:
    """Finish what was begun before, tell what goes, empty what is old, and take away what may go, some at a time.

    `limit`: of so many runs at most.
    """
    if not dry_run:
        with suppress(NoSpaceError):  # each folder that cannot be moved there tells
            garbage.files.make_trees([TRASH])
        yield from _finish(garbage)
    plan = _plan(garbage, limit)
    told(plan)
    if dry_run:
        yield from (_would_go(doomed) for doomed in plan.going)
        return
    for start in range(0, len(plan.emptied), TOGETHER):  # first: where the disk is full, the rest may need room to be moved
        yield from _empty(garbage, plan.emptied[start : start + TOGETHER])
    for some in _by_runs(plan.going):
        yield from _settle(garbage, _doom(garbage, some))


def _would_go(doomed: Doomed) -> Done:
    size = size_text((doomed.size or NOTHING).size_bytes)
    return _done("done", "would go", f"{doomed.kind.value}, {size}: {doomed.going.reason}", doomed.place)


def _done(kind: str, outcome: str, reason: str, place: Place | Trashed) -> Done:
    return Done(kind, outcome, reason, place.run, place.pipeline, place.step, place.sub_group)


def _by_runs(going: Sequence[Doomed]) -> Iterator[list[Doomed]]:
    """About `TOGETHER` folders at a time; what goes of one run goes together."""
    some: list[Doomed] = []
    for doomed in going:
        if len(some) >= TOGETHER and doomed.place.run != some[-1].place.run:
            yield some
            some = []
        some.append(doomed)
    if some:
        yield some


# --- what may go ----------------------------------------------------------------------------------------------------


def _plan(garbage: Garbage, limit: int | None) -> GcPlan:
    with garbage.database.read() as connection:
        steps = store.list_steps(connection, garbage.location)
        going = [doomed for step in steps for doomed in _choose(connection, garbage, step)]
        limiting = _limiting(garbage, steps)
        logs = [(step, store.list_folders_left(connection, step, Kind.LOGS, garbage.now)) for step in limiting]
        lying = trash.list_trash(connection, garbage.location)
        cache_bytes = staged.cache_bytes(connection, garbage.location) if garbage.cache_max_gb is not None else 0
    kept = _kept_for_sets(garbage)
    chosen = {doomed.place.path for doomed in going}
    for step, found in logs:
        going += _choose_excess(garbage, step, [pair for pair in found if pair[1].path not in chosen])
    kept = replace(kept, left={doomed.place.run for doomed in going if kept.holds(doomed)})
    going = [doomed for doomed in going if not kept.holds(doomed)]
    going = _first_runs(sorted(going, key=lambda d: (d.place.run, d.place.path)), limit)
    over = garbage.cache_max_gb is not None and cache_bytes > garbage.cache_max_gb * GB
    measured = _compared(garbage, _measured(garbage, going))
    return GcPlan(
        [doomed for doomed in measured if not doomed.is_missing and not doomed.is_changed],
        [doomed for doomed in measured if doomed.is_missing],
        [doomed for doomed in measured if doomed.is_changed],
        [row for row in lying if _is_over(garbage, row)],
        [row for row in lying if row.trashed_at is not None and not _is_over(garbage, row)],
        cache_bytes if over else None,
        kept,
    )


def _kept_for_sets(garbage: Garbage) -> KeptForSets:
    """Records first: rows were committed before them."""
    names = list_recorded(garbage.files)
    if not names:
        return KeptForSets()
    with garbage.database.read() as connection:
        unknown = set(names).difference(publishing.list_set_names(connection))
        uid = leases.read_uid(connection) if unknown else ""
    found = read_recorded(garbage.files, sorted(unknown), uid)
    records = [recorded.record for recorded in found.values()]
    runs = None if None in records else {run for record in records if record is not None for run in record.run_ids}
    return KeptForSets(tuple(found), runs)


def _policy(garbage: Garbage, step: StepKept) -> Retention:
    return garbage.retention.with_said(step.said)


def _limiting(garbage: Garbage, steps: Sequence[StepKept]) -> list[StepKept]:
    """Steps that may only have so much of logs: for these alone all logs are looked at."""
    return [step for step in steps if _policy(garbage, step).log_max_gb is not None]


def _choose(
    connection: sa.Connection, garbage: Garbage, step: StepKept, run_ids: Collection[int] | None = None
) -> list[Doomed]:
    """What of a step goes by its age, of all runs or of some."""
    policy, now = _policy(garbage, step), garbage.now
    found = []
    for left, place in store.list_products_left(connection, step, policy, now, run_ids):
        found.append((Kind.PRODUCTS, place, products_going(left, policy, now)))
    for kind, days, judge in (
        (Kind.SCRATCH, policy.scratch_days, scratch_going),
        (Kind.LOGS, policy.log_days, logs_going),
    ):
        if days is not None:
            by = now - timedelta(days=days)
            for folder, place in store.list_folders_left(connection, step, kind, by, run_ids):
                found.append((kind, place, judge(folder, policy, now)))
    return [Doomed(kind, place, going) for kind, place, going in found if going is not None]


def _choose_excess(garbage: Garbage, step: StepKept, found: Sequence[tuple[Any, Place]]) -> list[Doomed]:
    """The oldest logs of a step that has more than it may: how large they are only the disk knows."""
    sizes = garbage.files.measure_trees([PurePosixPath(place.path) for _, place in found])
    places = {place.path: place for _, place in found}
    sized = [(left, size.size_bytes) for left, place in found if (size := sizes[PurePosixPath(place.path)]) is not None]
    return [Doomed(Kind.LOGS, places[left.path], going) for left, going in excess_logs(sized, _policy(garbage, step))]


def _first_runs(going: list[Doomed], limit: int | None) -> list[Doomed]:
    if limit is None:
        return going
    runs = set(list(dict.fromkeys(doomed.place.run for doomed in going))[:limit])
    return [doomed for doomed in going if doomed.place.run in runs]


def _measured(garbage: Garbage, going: Sequence[Doomed]) -> list[Doomed]:
    sizes = garbage.files.measure_trees([PurePosixPath(doomed.place.path) for doomed in going])
    return [replace(doomed, size=sizes[PurePosixPath(doomed.place.path)]) for doomed in going]


def _compared(garbage: Garbage, going: Sequence[Doomed]) -> list[Doomed]:
    """These, with whether products are as recorded: looked at one by one only where an output has not just their bytes and
    files."""
    sized = {d.place.run: d.size for d in going if d.kind is Kind.PRODUCTS and d.size is not None}
    with garbage.database.read() as connection:
        recorded = integrity.present_amounts(connection, sized) if sized else {}
    doubtful = [run for run, size in sized.items() if recorded.get(run) != Amount(size.size_bytes, size.files)]
    outputs = {d.place.run: PurePosixPath(d.place.path) for d in going if d.kind is Kind.PRODUCTS}
    changed: set[int] = set()
    for start in range(0, len(doubtful), TOGETHER):
        some = doubtful[start : start + TOGETHER]
        with garbage.database.read() as connection:
            products = integrity.present_products(connection, some)
        trees = garbage.files.list_trees(outputs[run] for run in some)
        changed |= {run for run in some if list_lost(products[run], trees[outputs[run]])}
    return [replace(d, whole=not (d.kind is Kind.PRODUCTS and d.place.run in changed)) for d in going]


def _is_over(garbage: Garbage, row: Trashed) -> bool:
    """Whether it is deleted now: its grace is over, or somebody had begun to."""
    return row.trashed_at is not None and (row.emptying_at is not None or row.trashed_at + garbage.grace <= garbage.now)


# --- into the trash -------------------------------------------------------------------------------------------------


def _doom(garbage: Garbage, some: Sequence[Doomed]) -> list[Trashed]:
    """Rows for what still may go: chosen anew in this transaction, in which nobody makes a run of it or publishes it."""
    with garbage.database.write() as connection:
        publishing.lock(connection)
        runs = {doomed.place.run for doomed in some}
        store.lock_products(connection, {d.place.run for d in some if d.kind is Kind.PRODUCTS})
        still = _still_going(connection, garbage, some, runs)
        rows = [_row(garbage, doomed) for doomed in some if doomed.place.path in still]
        ids = trash.insert_trash(connection, rows)
        return trash.get_trash(connection, ids)


def _still_going(
    connection: sa.Connection, garbage: Garbage, some: Sequence[Doomed], run_ids: Collection[int]
) -> set[str]:
    steps = store.list_steps(connection, garbage.location)
    paths = {again.place.path for step in steps for again in _choose(connection, garbage, step, run_ids)}
    if any(doomed.going.rule == "log_max_gb" for doomed in some):
        for step in _limiting(garbage, steps):
            found = store.list_folders_left(connection, step, Kind.LOGS, garbage.now, run_ids)
            paths |= {place.path for left, place in found if not left.kept}
    return paths


def _row(garbage: Garbage, doomed: Doomed) -> dict[str, Any]:
    size = doomed.size or NOTHING
    return {
        "kind": doomed.kind.value, "run_id": doomed.place.run, "path": doomed.place.path, "size_bytes": size.size_bytes,
        "inodes": size.inodes, "freed_bytes": size.freed_bytes, "rule": doomed.going.rule,
        "reason": doomed.going.reason, "actor": garbage.actor, "doomed_at": garbage.now,
    }  # fmt: skip


def _finish(garbage: Garbage) -> Iterator[Done]:
    """What somebody began and did not end: folders that are not in the trash yet, or out of it again."""
    with garbage.database.read() as connection:
        lying = trash.list_trash(connection, garbage.location)
    begun = [row for row in lying if row.emptying_at is None]
    there = _where(garbage, begun)
    back = [row for row in begun if row.trashed_at is not None and there[row.path] and not there[row.trash_path]]
    if back:
        _record_back(garbage, back)
        yield from (_done("done", "brought back", f"{row.kind}: as somebody had begun to", row) for row in back)
    yield from _settle(garbage, [row for row in begun if row.trashed_at is None])


def _where(garbage: Garbage, rows: Sequence[Trashed]) -> dict[str, bool]:
    """Whether something is at the places of these rows, by recorded path."""
    paths = {text: PurePosixPath(text) for row in rows for text in (row.path, row.trash_path)}
    there = garbage.files.exists(paths.values())
    return {text: there[path] for text, path in paths.items()}


def _settle(garbage: Garbage, rows: Sequence[Trashed]) -> Iterator[Done]:
    """Move doomed folders into the trash, and write down which are there; the trouble of one is its own."""
    if not rows:
        return
    there = _where(garbage, rows)
    trashed, gone, done = [], [], []
    leading = _leave(garbage, rows)
    for row in rows:
        problem = leading if row.kind == Kind.PRODUCTS else None
        if not there[row.path] and not there[row.trash_path]:
            gone.append(row.id)
            continue
        if there[row.path] and problem is None:
            row, problem = _into_trash(garbage, row)
        if problem is None:
            trashed.append(row.id)
            done.append(_done("done", "in the trash", f"{row.kind}, {size_text(row.size_bytes)}: {row.reason}", row))
        else:
            done.append(_done("failed", "not moved", f"{row.path} to {row.trash_path}: {problem}", row))
    with garbage.database.write() as connection:
        trash.record_trashed(connection, trashed, garbage.now)
        trash.record_deleted(connection, gone, garbage.now)  # an empty attempt has no scratch
    yield from done


def _leave(garbage: Garbage, rows: Sequence[Trashed]) -> str | None:
    """Have no link `latest` lead to products that go, before they do; why that cannot be done, else None."""
    try:
        _switch_links(garbage, rows, {latest_target(row.run) for row in rows if row.kind == Kind.PRODUCTS})
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        return f"the link to it stays: {error.message}"
    return None


def _switch_links(garbage: Garbage, rows: Sequence[Trashed], going: Collection[str] = ()) -> None:
    """Links `latest` as they have to be now, of the sub-groups whose products these are. Links first, then settled.

    One that was left behind where its pipeline was before goes with what it leads to: `going`.
    """
    groups = {row.sub_group_id for row in rows if row.kind == Kind.PRODUCTS}
    if not groups:
        return
    with garbage.database.read() as connection:
        here, elsewhere = latest.list_links_of(connection, garbage.location, groups)
    leads = garbage.files.read_links(link.path for link in elsewhere)
    left_behind = [path for path, target in leads.items() if target in going]
    in_the_way = garbage.files.switch_links(
        [*((link.path, link.target) for link in here), *((path, None) for path in left_behind)]
    )
    with garbage.database.write() as connection:  # what changed meanwhile, or has something in its way, is for `collect`
        latest.settle_links(connection, [link for link in here if link.path not in in_the_way])


def _into_trash(garbage: Garbage, row: Trashed) -> tuple[Trashed, str | None]:
    """Where it lies then, and why it cannot be moved."""
    error = _move(garbage, row.path, row.trash_path)
    if isinstance(error, OtherFileSystemError):  # a pipeline may have a disk of its own
        with garbage.database.write() as connection:
            row = trash.lie_beside(connection, row)
        error = _move(garbage, row.path, row.trash_path)
    return row, None if error is None else _problem(error)


def _move(garbage: Garbage, source: str, target: str) -> CcatwmError | None:
    """Why a folder cannot be moved; None where it was. Errors: those of a world that is away."""
    try:
        moved = garbage.files.rename(PurePosixPath(source), PurePosixPath(target))
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        return error
    return None if moved else CcatwmError("something is there already", next="move it away")


def _problem(error: CcatwmError) -> str:
    return f"{error.with_next}, then `ccatwm gc` goes on" if error.next else error.message


# --- out of it --------------------------------------------------------------------------------------------------------


def _empty(garbage: Garbage, rows: Sequence[Trashed]) -> Iterator[Done]:
    """Delete what has lain in the trash long enough: from the row on that says so nothing brings it back."""
    with garbage.database.write() as connection:
        ids = trash.record_emptying(connection, [row.id for row in rows], garbage.now)
    problems = {row.id: _delete(garbage, row) for row in rows if row.id in ids}
    with garbage.database.write() as connection:
        trash.record_deleted(connection, [row_id for row_id, problem in problems.items() if problem is None], garbage.now)
    for row in rows:
        if problems.get(row.id):
            yield _done("failed", "not deleted", f"{row.trash_path}: {problems[row.id]}", row)
        elif row.id in problems:
            yield _done("done", "deleted", f"{row.kind}, {size_text(row.freed_bytes)} free again: {row.reason}", row)


def _delete(garbage: Garbage, row: Trashed) -> str | None:
    """Why a folder cannot be deleted; None where it was. Errors: those of a world that is away."""
    try:
        garbage.files.remove_trees([PurePosixPath(row.trash_path)])
    except NO_FAULT_OF_A_RUN:
        raise
    except CcatwmError as error:
        return _problem(error)
    return None


# --- back -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Undone:
    """What became of one row of the trash. `refused`: why it is not back."""

    row: Trashed
    refused: str | None = None


def undo(garbage: Garbage, run: int | None, reason: str, *, dry_run: bool) -> list[Undone]:
    """Bring back what lies in the trash, of one run or of all.

    Errors: UsageError where nothing of the run does.
    """
    with garbage.database.read() as connection:
        lying = trash.list_trash(connection, garbage.location, run_id=run)
        if run is not None and not lying:
            _refuse(run, trash.list_trash(connection, garbage.location, run_id=run, all_of_it=True))
    there = _where(garbage, lying)
    found = [Undone(row, _why_not(garbage, row, there)) for row in lying]
    if dry_run:
        return found
    found = [_moved_back(garbage, one, there) for one in found]
    back = [one.row for one in found if one.refused is None]
    if back:
        _record_back(garbage, back, reason)
    return found


def _refuse(run: int, rows: Sequence[Trashed]) -> None:
    """Say why nothing of a run can be brought back."""
    deleted = [row for row in rows if row.deleted_at is not None]
    if deleted:
        last = deleted[-1]
        raise UsageError(
            f"the {last.kind} of run {run} were deleted at {utc_text(last.deleted_at)}: {last.reason}",
            next=f"`ccatwm show {run}` says how to make them again",
        )
    raise UsageError(
        f"there is no folder of run {run} in the trash", next="`ccatwm gc --undo all --dry-run` lists what lies there"
    )


def _why_not(garbage: Garbage, row: Trashed, there: Mapping[str, bool]) -> str | None:
    """Why something cannot be brought back; None: it can, or nobody had moved it yet."""
    if row.emptying_at is not None:
        return "it is being deleted: its time in the trash was over"
    if there[row.path]:
        return "something else lies where it was" if there[row.trash_path] else None
    if not there[row.trash_path]:
        return "it is not in the trash any more: somebody else removed it"
    return _incomplete(garbage, row) if row.kind == Kind.PRODUCTS else None


def _incomplete(garbage: Garbage, row: Trashed) -> str | None:
    """Which products are not what was recorded: what lies long on a scratch file system may be purged."""
    with garbage.database.read() as connection:
        products = integrity.removed_products(connection, [row.run])[row.run]
    lost = list_lost(products, garbage.files.list_tree(PurePosixPath(row.trash_path)))
    if not lost:
        return None
    name = next(product.path for product in products if product.id == lost[0].row)
    return f"{name} in the trash is not as recorded: {lost[0].what}"


def _moved_back(garbage: Garbage, one: Undone, there: Mapping[str, bool]) -> Undone:
    if one.refused is not None or not there[one.row.trash_path]:
        return one
    error = _move(garbage, one.row.trash_path, one.row.path)
    return replace(one, refused=None if error is None else _problem(error))


def _record_back(garbage: Garbage, rows: Sequence[Trashed], reason: str = "") -> None:
    """What is there again counts again, and who waited for it is looked at."""
    with garbage.database.write() as connection:
        ids = trash.record_undone(connection, rows, garbage.now)
        back = [row for row in rows if row.id in ids]
        groups = {row.sub_group_id for row in back if row.kind == Kind.PRODUCTS}
        sub_groups.ask_no_more(connection, groups, garbage.now)
        sub_groups.mark_due(connection, groups, garbage.now)
        for run in sorted({row.run for row in back}):
            record_change(
                connection, at=garbage.now, actor=garbage.actor, host=garbage.host, act="gc --undo", target=f"run {run}",
                reason=reason or None, details={"paths": [row.path for row in back if row.run == run]},
            )  # fmt: skip
    try:
        _switch_links(garbage, back)
    except NoSpaceError as error:
        log.warning("links `latest` wait for the next `collect`: %s", error.message)


# --- for people and scripts -------------------------------------------------------------------------------------------

COLUMNS = ("what", "rule", "runs", "folders", "size", "free again", "inodes")


def reason_rows(plan: GcPlan) -> list[tuple[object, ...]]:
    """A table of what goes by which rule."""
    return [
        (r.kind.value, r.rule, r.runs, r.folders, size_text(r.size.size_bytes), size_text(r.size.freed_bytes),
         r.size.inodes)
        for r in plan.reasons()
    ]  # fmt: skip


def trash_lines(plan: GcPlan, garbage_grace: timedelta) -> list[str]:
    """What of the trash is deleted now, until when the rest can be brought back, and what is no business of `gc`."""
    lines = []
    if plan.kept.sets:
        named = ", ".join(plan.kept.sets[:MAX_NAMED]) + (" ..." if len(plan.kept.sets) > MAX_NAMED else "")
        left = f", and what may go of {count_text(len(plan.kept.left), 'run')} stays" if plan.kept.left else ""
        lines.append(f"published sets that the ops-db does not know any more: {named}{left}; `ccatwm fsck --import` next")
    if plan.missing:
        runs = count_text(len(plan.missing), "run")
        lines.append(f"not at their place: the products of {runs} that may go; `ccatwm fsck` tells what mends it")
    if plan.changed:
        runs = count_text(len(plan.changed), "run")
        lines.append(f"not as recorded: products of {runs} that may go; `ccatwm fsck` tells what mends it")
    if plan.emptied:
        size = size_text(sum(row.freed_bytes for row in plan.emptied))
        lines.append(f"deleted of the trash: {count_text(len(plan.emptied), 'folder')}, {size} free again")
    times = [row.trashed_at for row in plan.waiting if row.trashed_at is not None]
    if times:
        size = size_text(sum(row.size_bytes for row in plan.waiting))
        until = utc_text(min(times) + garbage_grace)
        lines.append(f"stays in the trash: {count_text(len(times), 'folder')}, {size}, the first of it until {until}")
    if plan.cache_bytes is not None:
        lines.append(f"the cache of staged packages has {size_text(plan.cache_bytes)}, more than CACHE_MAX_GB")
    return lines


def plan_json(plan: GcPlan) -> dict[str, Any]:
    """`reasons` and `trash` of the document `ccatwm.gc/1`."""
    return {
        "reasons": [
            {"kind": r.kind.value, "rule": r.rule, "runs": r.runs, "folders": r.folders, "size": r.size.size_bytes,
             "inodes": r.size.inodes, "freed": r.size.freed_bytes, "freed_inodes": r.size.freed_inodes}
            for r in plan.reasons()
        ],
        "missing": {"runs": len(plan.missing)},
        "changed": {"runs": len(plan.changed)},
        "unknown_sets": {"names": list(plan.kept.sets), "runs": len(plan.kept.left)},
        "emptied": {"folders": len(plan.emptied), "freed": sum(row.freed_bytes for row in plan.emptied)},
        "trash": {"folders": len(plan.waiting), "size": sum(row.size_bytes for row in plan.waiting)},
        "cache_bytes": plan.cache_bytes,
    }  # fmt: skip


@dataclass(frozen=True)
class UndoReport:
    """What `gc --undo` did, for people and scripts."""

    undone: Sequence[Undone] = field(default_factory=list)
    dry_run: bool = False

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": "ccatwm.gc-undo/1",
            "dry_run": self.dry_run,
            "undone": [
                {"run": one.row.run, "kind": one.row.kind, "path": one.row.path, "size": one.row.size_bytes,
                 "refused": one.refused}
                for one in self.undone
            ],
        }  # fmt: skip

    def lines(self) -> list[str]:
        word = "would come back" if self.dry_run else "is back"
        lines = [
            f"run {one.row.run} {one.row.kind}, {size_text(one.row.size_bytes)}: "
            + (f"{one.row.path} {word}" if one.refused is None else f"refused: {one.refused}")
            for one in self.undone
        ]
        if not lines:
            return ["the trash is empty"]
        if all(one.refused is not None for one in self.undone):
            return lines
        return [*lines, "what is back stays as long again; `ccatwm explain` says what is decided with it"]
