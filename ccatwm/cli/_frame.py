"""What all commands share: common options, one message per error, exit codes, output.

Touches: stdout, stderr, logging.

A command is a plain function. `command(app)` gives it the options `--site --json -v -q --log-format`, hands
them over as its parameter `common`, and turns expected errors into one message and an exit code.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import inspect
import json
import logging
import os
import re
import select
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from ccatwm.cli._table import PLAIN, Codes, lay_out, wrap, wrap_words
from ccatwm.core.names import encode_name
from ccatwm.edges.journal import FIELDS, Stamp
from ccatwm.errors import CcatwmError, SettingsError, WorldError

if TYPE_CHECKING:
    from ccatwm.interfaces import Progress
    from ccatwm.passes._context import Context

# Sections of `ccatwm --help`, in this order.
PASSES, SET_UP, LOOK, ACT, CARE = "Passes, in order of the data flow", "Set up", "Look", "Act", "Take care"
PANELS = (PASSES, SET_UP, LOOK, ACT, CARE)

EXIT_INTERRUPTED = 130


@dataclass(frozen=True)
class Common:
    """The options that every command knows. `log_format` is `text` or `json`."""

    site: str | None = None
    json: bool = False
    verbose: int = 0
    quiet: bool = False
    log_format: str = "text"

    @property
    def terminal(self) -> bool:
        """Whether a person watches: under cron and in scripts passes are silent."""
        return sys.stdout.isatty() and not self.json

    @property
    def watched(self) -> bool:
        """Whether progress is shown: on stderr, which is a terminal that knows how to go back, and where nobody asked
        for silence or for lines to be read by programs."""
        able = sys.stderr.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "unknown")
        return able and not (self.json or self.quiet or self.log_format == "json")


Site = Annotated[str | None, typer.Option("--site", metavar="NAME|DIR", help="The site to work on.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Verbose = Annotated[
    int,
    typer.Option(
        "--verbose", "-v", count=True, show_default=False, help="Say more on stderr; twice for all."
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")]
LogFormat = Annotated[
    str | None, typer.Option("--log-format", metavar="text|json", help="Form of log lines.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only show what would be done, and why.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="At most N.")]
Wait = Annotated[
    bool, typer.Option("--wait", help="Wait for the lock instead of leaving the work to its holder.")
]
Yes = Annotated[bool, typer.Option("--yes", help="Do it without being asked, however much it is.")]
Reason = Annotated[str | None, typer.Option("--reason", metavar="TEXT", help="Why; kept in the change log.")]

_COMMON: dict[str, tuple[Any, Any]] = {
    "site": (Site, None),
    "as_json": (Json, False),
    "verbose": (Verbose, 0),
    "quiet": (Quiet, False),
    "log_format": (LogFormat, None),
}


# What typer says of a value that it cannot take (pydantic's words), and what a person understands.
_MORE = {"greater": "more", "less": "less"}
_PLAIN_WORDS: tuple[tuple[str, Any], ...] = (
    (r"Input should be a valid integer\b.*", "it is to be a whole number"),
    (r"Input should be a valid number\b.*", "it is to be a number"),
    (r"Input should be (greater|less) than or equal to (\S+)", lambda m: f"it is to be {m[2]} or {_MORE[m[1]]}"),
    (r"Input should be (greater|less) than (\S+)", r"it is to be \1 than \2"),
)


def plain_words(message: str) -> str:
    """What is wrong with a value from a command line, in everyday words where typer has others."""
    for pattern, words in _PLAIN_WORDS:
        message = re.sub(pattern, words, message)
    return message


# Options that are text and have nothing to be converted to.
TEXT_OPTIONS = ("site", "log_format")
VALUE_OPTIONS = ("--site", "--log-format")  # as they are typed, before a command too


class LightCommand(typer.core.TyperCommand):
    """A command that does not import pydantic (by typer) for options that need no conversion."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _spare_conversion(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = plain_words(error.message)
            raise

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from ccatwm.cli._examples import example_lines

        lines = example_lines(ctx.command_path.partition(" ")[2])
        if lines:
            with formatter.section("Examples"):
                for line in lines:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")


class Sections(typer.core.TyperGroup):
    """The command group whose help lists commands by section, passes first."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _spare_conversion(super().get_params(ctx))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        found = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        shown = [(name, entry) for name, entry in found if entry is not None and not entry.hidden]
        limit = formatter.width - 6 - max((len(name) for name, _ in shown), default=0)
        for panel in PANELS:
            rows = [(n, c.get_short_help_str(limit)) for n, c in shown if _panel(c) == panel]
            if rows:
                with formatter.section(panel if len(rows) < len(shown) else "Commands"):
                    formatter.write_dl(rows)


def _spare_conversion(parameters: list[Any]) -> list[Any]:
    """Options that are not given, text and counts pass as they are: a start costs 50 ms less."""
    for parameter in parameters:
        conversion = parameter.process_value
        single = not (parameter.required or parameter.multiple) and parameter.nargs in (0, 1)
        if single and not isinstance(conversion, functools.partial):
            parameter.process_value = functools.partial(_process_value, parameter, conversion)
    return parameters


def _process_value(parameter: Any, convert: Callable[[Any, Any], Any], ctx: Any, value: Any) -> Any:
    as_it_is = value is None or getattr(parameter, "count", False) or parameter.name in TEXT_OPTIONS
    return value if as_it_is else convert(ctx, value)


def _panel(entry: Any) -> str:
    panel = getattr(entry, "rich_help_panel", None)
    return panel if panel in PANELS else CARE


def build_app(help: str, *, name: str | None = None) -> typer.Typer:
    """A typer app without rich: its import would cost more than all of the rest."""
    return typer.Typer(
        name=name,
        help=help,
        cls=Sections,
        rich_markup_mode=None,
        add_completion=False,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )


def command(
    app: typer.Typer, name: str | None = None, *, panel: str = CARE, hidden: bool = False
) -> Callable[[Callable[..., int | None]], Callable[..., None]]:
    """Register a function as a command. It may take `common: Common`; it returns its exit code or None."""

    def register(function: Callable[..., int | None]) -> Callable[..., None]:
        wrapped = _with_common_options(function)
        label = name or function.__name__.rstrip("_").replace("_", "-")
        app.command(label, cls=LightCommand, rich_help_panel=panel, hidden=hidden)(wrapped)
        return wrapped

    return register


def keep_named(app: typer.Typer, argv: Sequence[str]) -> None:
    """Typer builds every command at each start. Where `argv` names one, the others are not needed."""
    words = iter(argv)
    for word in words:
        if word in VALUE_OPTIONS:
            next(words, None)
        elif not word.startswith("-"):
            commands = [one for one in app.registered_commands if one.name == word]
            groups = [one for one in app.registered_groups if one.name == word]
            if commands or groups:  # else the mistake is told with what is meant, maybe
                app.registered_commands, app.registered_groups = commands, groups
            return


def _with_common_options(function: Callable[..., int | None]) -> Callable[..., None]:
    hints = get_type_hints(function, include_extras=True)
    signature = inspect.signature(function)
    own = [p.replace(annotation=hints[n]) for n, p in signature.parameters.items() if n != "common"]
    wants_common = "common" in signature.parameters

    @functools.wraps(function)
    def wrapper(ctx: typer.Context, **values: Any) -> None:
        given = {key: values.pop(key) for key in _COMMON}
        common = _merge(ctx.obj if isinstance(ctx.obj, Common) else Common(), **given)
        if wants_common:
            values["common"] = common
        raise typer.Exit(run_guarded(common, lambda: function(**values)))

    kind = inspect.Parameter.KEYWORD_ONLY
    context = inspect.Parameter("ctx", kind, annotation=typer.Context)
    extra = [inspect.Parameter(n, kind, default=d, annotation=a) for n, (a, d) in _COMMON.items()]
    shown = [p.replace(kind=kind) for p in own]
    new = signature.replace(parameters=[context, *shown, *extra], return_annotation=None)
    wrapper.__signature__ = new  # type: ignore[attr-defined]
    wrapper.__annotations__ = {p.name: p.annotation for p in new.parameters.values()}
    del wrapper.__wrapped__  # typer would read the original signature
    return wrapper


def _merge(
    above: Common, *, site: str | None, as_json: bool, verbose: int, quiet: bool, log_format: str | None
) -> Common:
    if log_format not in (None, "text", "json"):
        raise typer.BadParameter(f"{log_format!r} is neither 'text' nor 'json'", param_hint="--log-format")
    return replace(
        above,
        site=site or above.site,
        json=as_json or above.json,
        verbose=max(verbose, above.verbose),
        quiet=quiet or above.quiet,
        log_format=log_format or above.log_format,
    )


def remember_common(
    ctx: typer.Context,
    site: Site = None,
    as_json: Json = False,
    verbose: Verbose = 0,
    quiet: Quiet = False,
    log_format: LogFormat = None,
) -> None:
    """The callback of the app: common options given before the command."""
    ctx.obj = _merge(
        Common(), site=site, as_json=as_json, verbose=verbose, quiet=quiet, log_format=log_format
    )


# --- the site ----------------------------------------------------------------------------------------------

_opened = ExitStack()  # what the command at work has to close


def open_context(common: Common, *, looks: bool = False) -> Context:
    """The context of the site; its connection is closed when the command ends, however it ends. `looks`: as in wiring."""
    from ccatwm import wiring

    context = wiring.open_context(common.site, looks=looks, progress=open_progress(common))
    _opened.callback(context.close)
    return context


def open_progress(common: Common) -> Progress:
    """Bars where a person watches; whatever is shown is gone when the command ends, however it ends."""
    from ccatwm.interfaces import NO_PROGRESS

    if not common.watched:
        return NO_PROGRESS
    from ccatwm.cli._progress import TerminalProgress

    shown = TerminalProgress()
    _opened.callback(shown.close)
    return shown


# --- one message per error ---------------------------------------------------------------------------------


def run_app(app: typer.Typer, prog_name: str | None = None) -> int:
    """Run the command line of an entry point; its exit code. Whatever stdout and stderr are, it ends in good order."""
    open_streams()
    try:
        app(prog_name=prog_name)
        code: object = 0
    except SystemExit as end:
        code = end.code
        if isinstance(end.__context__, BrokenPipeError) and _reader_has_left():  # what click makes of it is 1
            code = 0
            _give_up_stdout()
    except OSError as error:  # help and usage are printed outside of `run_guarded`
        code = _tell_os(Common(), error, getattr(error.__context__, "exit_code", 0))
    if isinstance(code, str):
        print(code, file=sys.stderr)
    return code if isinstance(code, int) else int(code is not None)


def open_streams() -> None:
    """Streams that were handed over closed (`>&-`) lead nowhere, and no file or socket gets their numbers."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def run_guarded(common: Common, call: Callable[[], int | None]) -> int:
    """The exit code of `call`; expected errors become one message."""
    code = 0
    try:
        with _interruptible():
            start_logging(common)
            try:
                with _opened:
                    code = call() or 0
            except CcatwmError as error:
                code = error.exit_code
                if isinstance(error, WorldError):  # a pass would have kept it in its report
                    error.next = error.next or "try again"
                print_error(common, error)
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except OSError as error:
        return _tell_os(common, error, code)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Ctrl-C raises within, so that a command tidies up; before and after, it ends the process (`ccatwm.starting`)."""
    outside = signal.getsignal(signal.SIGINT)
    if not callable(outside) or outside is signal.default_int_handler:  # ignored, or inside of a program of others
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # a manager has one of its own
            signal.signal(signal.SIGINT, outside)


def _tell_os(common: Common, error: OSError, code: int) -> int:
    """The exit code after an error of the file system; where the output itself took no more, stderr says so."""
    if isinstance(error, BrokenPipeError) and _reader_has_left():
        _give_up_stdout()  # `| head`: nothing is wrong
        return code
    told = _from_os(error)
    try:
        sys.stdout.flush()
        print_error(common, told)
        sys.stdout.flush()
    except OSError:  # the output itself was what failed
        _give_up_stdout()
        told = CcatwmError(told.message, where="stdout")
        with contextlib.suppress(OSError):
            print_error(replace(common, json=False), told)
    return code or told.exit_code


def _reader_has_left() -> bool:
    """Whether stdout is a pipe that nobody reads any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(flags & select.POLLERR for _, flags in poll.poll(0))
    except (OSError, ValueError):
        return False


def _give_up_stdout() -> None:
    """What is still in the buffer must not fail once more when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def leave(code: int) -> None:
    """End the process now, with its buffers flushed."""
    try:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError:  # nobody reads any more
        pass
    os._exit(code)


# Errors of the file system that a person has to mend.
NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)


def _from_os(error: OSError) -> CcatwmError:
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    text = error.strerror or str(error)
    if error.errno not in NO_RIGHT or not where:
        return CcatwmError(text, where=where)
    return SettingsError(text, where=where, next="give this account the right to it, or act as its owner")


def error_json(error: CcatwmError) -> dict[str, Any]:
    """`{"error": ...}` as scripts read it."""
    document: dict[str, Any] = {
        "class": type(error).__name__,
        "message": error.message,
        "where": error.where,
        "next": error.next,
    }
    if error.problems:
        document["problems"] = [{"where": p.where, "what": p.what, "next": p.next} for p in error.problems]
    return {"error": document}


def print_error(common: Common, error: CcatwmError) -> None:
    """On stdout as JSON for scripts, else on stderr."""
    if common.json:
        emit_json(error_json(error))
    else:
        width = terminal_width(sys.stderr)
        for line in f"ccatwm: {printable(str(error), lines=True)}".split("\n"):
            print("\n".join([line] if width is None else wrap_words(line, width)), file=sys.stderr)


# --- logs --------------------------------------------------------------------------------------------------


def _log_time(record: logging.LogRecord, timespec: str) -> str:
    """When it was logged, UTC."""
    from datetime import UTC, datetime

    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


class JsonLines(logging.Formatter):
    """One JSON object per log record."""

    def format(self, record: logging.LogRecord) -> str:
        document = {
            "time": _log_time(record, "microseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        for key in FIELDS:
            if getattr(record, key, None) is not None:
                document["pass" if key == "pass_name" else key] = getattr(record, key)
        return json.dumps(document)


class PlainLines(logging.Formatter):
    """A log line for people, with its time in UTC and what it belongs to; text from outside cannot steer their terminal."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return _log_time(record, "seconds")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _belonging_text(record)
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), lines=True)


class StderrLines(logging.Handler):
    """To what `sys.stderr` is at the time: progress bars make room for what is written there."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(f"{self.format(record)}\n")
            sys.stderr.flush()
        except Exception:  # a log line is no reason to end
            self.handleError(record)


def _belonging_text(record: logging.LogRecord) -> str:
    """The message with pass, run and pipeline, as far as it does not name them itself."""
    message, (pass_name, run, pipeline) = record.message, (getattr(record, name, None) for name in FIELDS)
    told = [f"run {run}"] if run is not None and not re.search(rf"\brun {run}\b", message) else []
    told += [str(pipeline)] if pipeline is not None and str(pipeline) not in message else []
    text = f"{message} [{', '.join(told)}]" if told else message
    return text if pass_name is None or message.startswith(f"{pass_name}: ") else f"{pass_name}: {text}"


def start_logging(common: Common) -> None:
    """Logs go to stderr. Without `-v` only what somebody must know is said."""
    handler = StderrLines()
    handler.setFormatter(
        JsonLines() if common.log_format == "json" else PlainLines("%(asctime)s %(levelname)s %(message)s")
    )
    handler.addFilter(Stamp())
    level = logging.ERROR if common.quiet else _LEVELS[min(common.verbose, 2)]
    if common.log_format == "json" and not common.quiet:
        level = min(level, logging.INFO)
    root = logging.getLogger("ccatwm")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
    if logging.lastResort is not None:  # where what other libraries log goes to
        logging.lastResort.addFilter(_is_no_interrupt)


def _is_no_interrupt(record: logging.LogRecord) -> bool:
    """SQLAlchemy logs an interrupt with its traceback where it reaches a connection that is being put back."""
    return not (record.exc_info and isinstance(record.exc_info[1], KeyboardInterrupt))


_LEVELS = (logging.WARNING, logging.INFO, logging.DEBUG)


# --- output ------------------------------------------------------------------------------------------------


def emit_json(document: Any) -> None:
    """Print one JSON document on stdout. File names that are no text are percent-encoded, as in the ops-db."""
    text = json.dumps(document, indent=2, default=str)
    if _SURROGATE.search(text):  # also what stands for a character beyond the basic plane: those stay
        text = json.dumps(_encoded(document), indent=2, default=str)
    sys.stdout.write(text + "\n")


_SURROGATE = re.compile(r"\\ud[89a-f]", re.ASCII)


def _encoded(value: Any) -> Any:
    """`value` with every text in it that no reader of JSON takes percent-encoded."""
    if isinstance(value, dict):
        return {_encoded(key): _encoded(content) for key, content in value.items()}
    if isinstance(value, list | tuple):
        return [_encoded(content) for content in value]
    text = value if isinstance(value, str) else str(value) if isinstance(value, PurePath) else None
    return encode_name(text) if text is not None and _is_no_text(text) else value


def _is_no_text(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def printable(text: str, *, lines: bool = False) -> str:
    """`text` with control characters and unpaired surrogates written as escapes; newlines stay if `lines`."""
    return "".join(c if _is_plain(c) or (lines and c == "\n") else _escape(c) for c in text)


def _is_plain(character: str) -> bool:
    return character.isprintable() or character == " "


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def show_report(common: Common, report: Any) -> None:
    """What a command did: one JSON document for scripts, lines for people."""
    if common.json:
        emit_json(report.to_json())
    elif not common.quiet:
        print_lines(report.lines())


def print_lines(lines: Sequence[str]) -> None:
    """Lines for people, whatever names they hold; on a terminal none is broken amid a word."""
    width = terminal_width(sys.stdout)
    for line in lines:
        for part in [printable(line)] if width is None else wrap_words(printable(line), width):
            print(part)


def print_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table for people: fitted to the terminal, or plain aligned text with whole cells where there is none."""
    cells = [[_cell(value) for value in row] for row in rows]
    width = terminal_width(sys.stdout)
    head = BOLD if colours(sys.stdout) else PLAIN
    if title:
        for line in [printable(title)] if width is None else wrap(printable(title), width):
            print(line)
    for line in lay_out(columns, cells, width, _paint if colours(sys.stdout) else lambda _: PLAIN, head):
        print(line)


def _cell(value: object) -> str:
    return "-" if value is None else printable(str(value))


def terminal_width(stream: Any) -> int | None:
    """Columns of the terminal that the stream is; None where it is none: then nothing has to fit."""
    import shutil

    return shutil.get_terminal_size().columns if stream.isatty() else None


# --- colours -----------------------------------------------------------------------------------------------

BOLD, RED, GREEN, YELLOW, BLUE = ((f"\x1b[{number}m", "\x1b[0m") for number in (1, 31, 32, 33, 34))
# By the first word of a cell or a finding.
_COLOURS = {
    "COMPLETED": GREEN, "FAILED": RED, "CANCELLED": YELLOW, "RUNNING": BLUE, "COLLECTING_RESULTS": BLUE,
    "ok": GREEN, "WRONG": RED, "warning": YELLOW,
}  # fmt: skip


def colours(stream: Any) -> bool:
    """Only on a terminal that knows them, and unless somebody wants none (https://no-color.org)."""
    return stream.isatty() and os.environ.get("TERM") != "dumb" and not os.environ.get("NO_COLOR")


def _paint(text: str) -> Codes:
    return _COLOURS.get(text.partition(" ")[0], PLAIN)


def print_finding(word: str, head: str, text: str) -> None:
    """`word head text` of a check: the word coloured, what does not fit on the line below the text."""
    text, width = printable(text), terminal_width(sys.stdout)
    start = f"{word:<8} {printable(head)} "
    first, *others = [text] if width is None else wrap(text, max(MIN_TEXT, width - len(start)))
    before, after = _paint(word) if colours(sys.stdout) else PLAIN
    print(f"{before}{word}{after}{start[len(word) :]}{first}")
    for line in others:
        print(f"{'':<{len(start)}}{line}")


MIN_TEXT = 30  # columns; on a narrower terminal lines go on by themselves
