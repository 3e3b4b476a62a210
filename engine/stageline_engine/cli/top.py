"""`stageline top`: the stages of a running server, live in a terminal. Reads its metrics and nothing else."""

from __future__ import annotations

import math
import time
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from stageline_engine.cli import flags
from stageline_engine.cli.top_table import top_table
from stageline_engine.core.errors import ConfigurationError
from stageline_engine.server.scrape import Scrape, scrape

WIDTH = 100


def top_command(
    url: Annotated[str, Parameter(help="A server's address, e.g. http://127.0.0.1:8000.")],
    /,
    *,
    interval: Annotated[
        float, Parameter(group=flags.TOP, help="Seconds between two looks; figures are of the time between them.")
    ] = 2.0,
    once: Annotated[bool, Parameter(group=flags.TOP, negative="", help="Print one table and end.")] = False,
) -> int:
    """Show where the stages of a running server spend their time, until Ctrl-C.

    On something else than a terminal each table is printed below the one before.
    """
    if not 0 < interval < math.inf:
        raise ConfigurationError("--interval", interval, "give a number of seconds above 0")
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = WIDTH
    before = scrape(url, "URL")
    try:
        if once:
            time.sleep(interval)
            console.print(top_table(before, _after(url, before)))
        elif console.is_terminal:
            _live(url, before, interval, console)
        else:
            _printed(url, before, interval, console)
    except KeyboardInterrupt:
        # That is how it ends.
        pass
    return 0


def _after(url: str, before: Scrape) -> Scrape:
    after = scrape(url, "URL")
    if after.seconds < before.seconds or len(after.stages) != len(before.stages):
        raise ConfigurationError("URL", url, "the server began anew meanwhile: try again")
    return after


def _printed(url: str, before: Scrape, interval: float, console: Console) -> None:
    while True:
        time.sleep(interval)
        after = _after(url, before)
        console.print(top_table(before, after))
        before = after


def _live(url: str, before: Scrape, interval: float, console: Console) -> None:
    """A server that does not answer for a while is waited for: the person sees it and decides."""
    with Live(Text(f"reading {url}"), console=console, auto_refresh=False, screen=True) as screen:
        shown = Group()
        while True:
            time.sleep(interval)
            try:
                after = scrape(url, "URL")
                if after.seconds >= before.seconds and len(after.stages) == len(before.stages):
                    shown = top_table(before, after)
                    screen.update(shown, refresh=True)
                before = after
            except ConfigurationError as error:
                screen.update(Group(shown, Text(str(error), style="red")), refresh=True)
