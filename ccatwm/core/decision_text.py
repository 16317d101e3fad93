"""What a decision says, in a few words for reports. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ccatwm.core.gap import Decision, Outcome
from ccatwm.core.policy import version_key
from ccatwm.core.wording import some_text

SHOWN_NAMES = 3
Details = Mapping[str, Any]


def decision_text(decision: Decision) -> str:
    """The reason to run; else, or in addition, why not yet or why not."""
    words = _WORDS.get(decision.outcome, _nothing)(decision.details)
    return ": ".join(part for part in (decision.reason, words) if part)


_CHANGE_WORDS = (
    ("inputs_added", "added"),
    ("inputs_withdrawn", "withdrawn"),
    ("inputs_changed", "changed"),
    ("upstream_added", "new upstream"),
    ("upstream_withdrawn", "upstream gone"),
    ("upstream_changed", "upstream changed"),
)


def changes_text(details: Details, shown: int = SHOWN_NAMES) -> str:
    """What differs from the run that was compared: `added scan-3; fit.order 1 -> 2`; last what does not count."""
    changes = details.get("changes") or {}
    ignored = _change_texts(changes.get("ignored") or {}, shown)
    besides = [f"besides, ignored: {', '.join(ignored)}"] if ignored else []
    return "; ".join(_change_texts(changes, shown) + besides)


def _change_texts(changes: Mapping[str, Any], shown: int) -> list[str]:
    parts = [f"{word} {_some(changes[key], shown)}" for key, word in _CHANGE_WORDS if changes.get(key)]
    for key, what in (("config", ""), ("environment", "environment "), ("references", "reference ")):
        parts += [f"{what}{name} {_value(old)} -> {_value(new)}" for name, (old, new) in (changes.get(key) or {}).items()]
    if changes.get("software"):
        parts.append("version {} -> {}".format(*changes["software"]))
    return parts + companion_texts(changes)


def _value(value: Any) -> str:
    """A key that is not there, or is null, which means the same to a step."""
    return "(not set)" if value is None else str(value)


def _nothing(_details: Details) -> str:
    return ""


def _until(details: Details) -> str:
    until = f"not before {details['until']}" if details.get("until") else ""
    return "; ".join(part for part in (until, changes_text(details)) if part)


def _waiting_for_data(details: Details) -> str:
    packages = [f"{p['name']} is {p['state']}" for p in details.get("packages") or ()]
    unfinished = list(details.get("obs_unit_not_ended") or ())
    parts = [_some(packages)] if packages else []
    parts += [f"the observation of {_some(unfinished)} has not ended"] if unfinished else []
    return "; ".join(parts + lacking_texts(details))


def lacking_texts(details: Details) -> list[str]:
    """Which companions a sub-group waits for."""
    return [_lacking(companion) for companion in details.get("companions") or ()]


def _lacking(companion: Mapping[str, Any]) -> str:
    if not companion["known"]:
        return f"the packages of companion {companion['companion']} are being grouped"
    excluded = f" (excluded: {_some(companion['excluded'])})" if companion["excluded"] else ""
    within = f" within {companion['within_hours']:g} h" if companion.get("within_hours") is not None else ""
    return f"{_some(companion['packages'])} has no companion {companion['companion']}{within}{excluded}"


def companion_texts(changes: Mapping[str, Any]) -> list[str]:
    """Which companions came, went or are others."""
    words = (
        ("added", "added"), ("withdrawn", "gone"), ("changed", "changed"),
        ("added_too", "added with it"), ("withdrawn_too", "gone with it"),
    )  # fmt: skip
    return [
        f"companion {_some(changes[f'companions_{key}'])} {word}" for key, word in words if changes.get(f"companions_{key}")
    ]


def _waiting_for_upstream(details: Details) -> str:
    if details.get("removed"):
        again = _some([f"{u['step']} {u['sub_group']}: {u['state']}" for u in details["upstream"]])
        then = f", then {details['then']}" if details.get("then") else ""
        return "; ".join(part for part in (f"{again}{then}", changes_text(details)) if part)
    return _some([f"{u['step']} {u['sub_group']} is {u['state']}" for u in details.get("upstream") or ()])


def _waiting_for_image(details: Details) -> str:
    return f"{missing_software_text(details)}; `ccatwm apply` {_to_apply(details)}"


def _to_apply(details: Details) -> str:
    if lacks_version(details):
        return "such a version, or another `version` of the step"
    return "a version whose image is a file" if lacks_file(details) else "again when it is"


def lacks_version(details: Details) -> bool:
    """Whether a sub-group waits for a version; else it waits for the image of one."""
    return details.get("missing") == "version"


def lacks_file(details: Details) -> bool:
    """Whether the image that a sub-group waits for is a URI, of which no release knows the digest yet."""
    return "://" in str(details.get("image"))


def missing_software_text(details: Details) -> str:
    """What a sub-group lacks that is `waiting-for-image`."""
    return _missing_version_text(details) if lacks_version(details) else _missing_image_text(details)


def _missing_version_text(details: Details) -> str:
    """Which version of a software a step wants, that none is it, and which there are."""
    software, excluded = details.get("software"), list(details.get("excluded_versions") or ())
    exactly, at_least = details.get("exactly"), details.get("at_least")
    if exactly:
        state = "excluded" if exactly in excluded else "not registered"
        text = f"version {exactly} of {software} is {state}"
    else:
        fitting = any(at_least is None or version_key(v) >= version_key(at_least) for v in excluded)
        newer = f" that is {at_least} or newer" if at_least else ""
        text = f"no version of {software}{newer} is {'left' if fitting else 'registered'}"
    there = [f"there are: {_some(details['versions'][::-1])}"] if details.get("versions") else []
    others = [v for v in excluded if v != exactly]
    there += [f"excluded: {_some(others)}"] if others else []
    return f"{text} ({'; '.join(there)})" if there else text


def _missing_image_text(details: Details) -> str:
    """Which image was not there when its version was applied."""
    version = f" of {details['software']} {details['version']}" if details.get("version") else ""
    image = f"image {details.get('image')}{version}"
    if lacks_file(details):
        return f"{image} is a URI, and nothing fetches those in this release"
    return f"{image} was not there when it was applied"


def _no_inputs(details: Details) -> str:
    failed = list(details.get("upstream_failed") or ())
    if details.get("excluded"):
        return f"excluded: {_some(details['excluded'])}"
    return f"failed upstream: {_some(failed)}" if failed else "no archived package and no upstream product"


def _up_to_date(details: Details) -> str:
    ignored = details.get("not_counted")
    return _of_run(details) + (f"; not counted: {', '.join(ignored)}" if ignored else "")


def _of_run(details: Details) -> str:
    after = f", then another is wanted: {details['then']}" if details.get("then") else ""
    state = details.get("status")
    return f"run {details.get('run')}{f' is {state}' if state else ''}{after}"


def _busy(details: Details) -> str:
    return "; ".join(part for part in (_of_run(details), changes_text(details)) if part)


def _ended_badly(details: Details) -> str:
    if details.get("excluded_run"):
        return f"run {details.get('run')} is excluded: {details.get('message')}"
    failure = f": {details['class']}" if details.get("class") else ""
    return f"run {details.get('run')}{failure}"


def _some(names: Sequence[str], shown: int = SHOWN_NAMES) -> str:
    return some_text(names, shown)


_WORDS: Mapping[Outcome, Callable[[Details], str]] = {
    Outcome.RUN: changes_text,
    Outcome.COOLING_DOWN: _until,
    Outcome.SETTLING: _until,
    Outcome.WAITING_FOR_DATA: _waiting_for_data,
    Outcome.WAITING_FOR_UPSTREAM: _waiting_for_upstream,
    Outcome.WAITING_FOR_IMAGE: _waiting_for_image,
    Outcome.NO_INPUTS: _no_inputs,
    Outcome.UP_TO_DATE: _up_to_date,
    Outcome.ACCEPTED: _of_run,
    Outcome.RESTORED: _up_to_date,
    Outcome.BUSY: _busy,
    Outcome.FAILED: _ended_badly,
    Outcome.CANCELLED: _ended_badly,
    Outcome.HELD: lambda details: str(details.get("reason") or ""),
    Outcome.TRIPPED: lambda details: f"too many attempts failed as {details.get('class')}",
}
