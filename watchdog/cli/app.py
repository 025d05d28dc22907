"""The verbs, and how each finds its configuration, its journal and its words. Verbs are imported when called."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import click

from watchdog import __version__, interrupts
from watchdog.actions import place
from watchdog.actions.place import Place
from watchdog.actions.waiting import Holders
from watchdog.cli.output import Output, warning
from watchdog.config import DEFAULT_PATH, Config, find, load, without_file
from watchdog.config import usable as config_of
from watchdog.errors import ConfigurationError, Exit, NotRoot, UsageError, WatchdogError
from watchdog.journal import Journal, readable
from watchdog.kernel.hold import Hold
from watchdog.spans import seconds

VERBS = {
    "run": "watch the peers for one agent, until told to stop",
    "status": "peers, isolations and receivers as they are now",
    "isolate": "cut one agent off the network, in the kernel",
    "release": "let an isolated agent back",
    "verify": "ask the kernel whether an isolation holds",
    "drill": "isolate and release a stand-in, the whole path",
    "silence": "let nothing act on a peer for a time",
    "history": "what was ordered, done and seen",
    "doctor": "what this host can do, and what to do about what is missing",
    "notify": "try the receivers of notifications",
    "reconcile": "bring the kernel back to what is meant",
    "config": "check a configuration, or print an example",
}

PATHS = ("paths", "$")
"""How what is wrong with where things are begins: in the file, or in the environment."""
DAY_S = 24 * 3600.0
TEXT_LIMIT = 2000
"""Characters of a reason: what is longer belongs into the incident's own record."""
SURROGATES = ("\ud800", "\udfff")
"""What bytes that are no UTF-8 become on the command line; they can be neither stored nor sent."""


class Verbs(click.Group):
    """Each verb is `verb` in its own module, which is imported only when it is wanted."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        verb: click.Command = importlib.import_module(f"watchdog.cli.{cmd_name}").verb
        return verb

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # of which click would say something itself: an empty line
            raise click.Abort from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl(list(VERBS.items()))


@click.group(
    cls=Verbs, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}, no_args_is_help=True
)
@click.version_option(__version__, prog_name="watchdog-mesh")
def cli() -> None:
    """SOC agents that watch each other: heartbeat, restart, and isolation in the kernel.

    Exit status: 0 the wanted state holds, 1 failed, 2 usage or configuration, 3 refused by a safety rail,
    4 partial, 5 this host cannot, 6 not root, 130 interrupted. `status` has its own.
    """


F = TypeVar("F", bound=Callable[..., Any])


def common(command: F) -> F:
    """--config and --json, which every verb has."""
    command = click.option(
        "--config", "config_path", type=click.Path(path_type=Path), help="The configuration's path."
    )(command)
    return click.option("--json", "as_json", is_flag=True, help="One JSON document instead of words.")(command)


def paths_option(command: F) -> F:
    """--paths, for the verbs that tell of isolations."""
    says = "Every known path: covered, not covered, or not applicable."
    return click.option("--paths", "all_paths", is_flag=True, help=says)(command)


def run(arguments: Sequence[str], held: Hold | None = None) -> int:
    """Run one command line; its exit status. Every error of ours and of click's ends in one line.

    `held` is what was stopped early (watchdog/early.py): the verb gets it as click's object, and the caller lifts it.
    """
    output = Output(as_json="--json" in arguments)
    try:
        status = cli.main(list(arguments), prog_name="watchdog-mesh", standalone_mode=False, obj=held)
        return int(status or Exit.OK)
    except WatchdogError as error:
        output.error(error)
        return int(error.exit_status)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return Exit.USAGE
    except click.ClickException as error:
        verb = next((f" {word}" for word in arguments[:1] if word in VERBS), "")  # click does not always say which
        named = error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
        command = named or f"watchdog-mesh{verb}"
        output.error(UsageError(error.format_message().rstrip("."), hint=f"see {command} --help"))
        return Exit.USAGE
    except (click.Abort, KeyboardInterrupt):
        interrupted = interrupts.error_of(arguments)
        output.error(interrupted)
        return int(interrupted.exit_status)


def need_root() -> None:
    """Raises NotRoot for anybody else."""
    if os.geteuid() != 0:
        raise NotRoot("only root may do this", hint="run it again with sudo")


def configured(config_path: Path | None) -> Config:
    """The configuration; without a file at the default place what needs no peers works with defaults."""
    path = find(config_path)
    if path == DEFAULT_PATH and config_path is None and not path.exists():
        return without_file(os.environ)
    return load(path)


def usable(config_path: Path | None, *, at_boot: bool = False) -> tuple[Config, ConfigurationError | None]:
    """The same for a verb that no mistake in the file is to keep from an incident: what is right of it, and what is
    wrong, which is said.

    Raises ConfigurationError for a file that was named and cannot be read; and, but at boot, where it is not known
    which journal is meant.
    """
    path = find(config_path)
    if path == DEFAULT_PATH and config_path is None and not path.exists():
        return without_file(os.environ), None
    config, wrong = config_of(path)
    if wrong is None:
        return config, None
    if not at_boot and ((not wrong.problems and config_path) or any(each.startswith(PATHS) for each in wrong.problems)):
        raise wrong
    warning(f"{wrong.message}; what is right of it is used, with the journal in {config.paths.state}")
    return config, wrong


@contextmanager
def place_of(config: Config, *, to_change: bool = False, to_read: bool = False) -> Iterator[Place]:
    """The host's journal and places, as configured, and how a command tells people.

    With `to_change` a damaged journal is refused before anything is done that it could not keep; `to_read` is
    `closing_journal`'s.
    """
    from watchdog.cli.tell import news_of

    with closing_journal(config, to_read=to_read) as journal:
        if to_change:
            journal.must_be_whole()
        yield replace(place.configured(config, journal), news=news_of(config, journal), waiting=_say_waiting)


def _say_waiting(found: Holders) -> None:
    warning(f"waiting for {found.words}{f'; {found.remedy}' if found.stopped else ''}")


@contextmanager
def closing_journal(config: Config, *, to_read: bool = False) -> Iterator[Journal]:
    """The journal, opened and closed. With `to_read` a disk that takes nothing is said, and what it holds is read."""
    if to_read:
        with readable(config.paths.state, config.paths.run) as (journal, why):
            if why:
                warning(f"{why}; what it holds is read all the same, and nothing is kept")
            yield journal
        return
    journal = Journal.open(config.paths.state)
    try:
        yield journal
    finally:
        journal.close()


def given_span_s(text: str, option: str, longest_s: float) -> float:
    """A time span given on the command line, in seconds. Raises UsageError that names the option."""
    with suppress(ValueError):
        if (span_s := seconds(text)) <= longest_s:
            return span_s
    longest = "a day" if longest_s == DAY_S else f"{longest_s / DAY_S:g} days"
    raise UsageError(f'{option} {text}: want a time greater than 0 and at most {longest}, such as "90s", "30m" or "1h"')


def stated(text: str, option: str) -> str:
    """A text given on the command line for the record. Raises UsageError for one that says nothing or too much."""
    problem = ""
    if not text.strip():
        problem = "says nothing"
    elif len(text) > TEXT_LIMIT:
        problem = f"has {len(text)} characters, at most {TEXT_LIMIT} are wanted"
    elif any(SURROGATES[0] <= letter <= SURROGATES[1] for letter in text):
        problem = "is not UTF-8 text"
    if problem:
        raise UsageError(f"{option} {problem}", hint="say it in a sentence: it goes to the journal and the receivers")
    return text
