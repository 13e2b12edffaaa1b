"""The three places where a study is shown while it runs: a terminal, a notebook, and a stream of plain lines."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

PAGE = '<pre style="line-height: 1.2">{code}</pre>'

View = Callable[[int, int], RenderableType]
"""Draws the present state for a width and a height."""


def say(console: Console, line: str, style: str = "") -> None:
    """Print a line unchanged: rich interprets neither markup nor emoji names in it, and does not wrap it."""
    console.print(Text(line, style), soft_wrap=True)


class Screen(ABC):
    """Where a study is shown.

    Attributes:
        moving: Whether it shows the present state; if not, only lines are seen.
        width: The longest line that it shows whole; None if it shows lines of any length.
    """

    moving: bool

    @property
    @abstractmethod
    def width(self) -> int | None: ...

    @abstractmethod
    def start(self) -> None: ...

    @abstractmethod
    def stop(self) -> None: ...

    @abstractmethod
    def line(self, text: str, style: str = "") -> None:
        """Add a line that stays."""

    def refresh(self) -> None:  # noqa: B027
        """Show the present state now; nothing to do where it is not shown, or is drawn by a clock."""


class Lines(Screen):
    """A pipe, a file or the log of a scheduler: lines alone, without control codes."""

    moving = False

    def __init__(self, console: Console) -> None:
        self._console = console

    @property
    def width(self) -> None:
        return None

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def line(self, text: str, style: str = "") -> None:
        say(self._console, text, style)


class Terminal(Screen):
    """A terminal: lines scroll above one live view, which is drawn twice a second and vanishes at the end."""

    moving = True

    def __init__(self, console: Console, view: View) -> None:
        self._console = console
        self._live = Live(
            console=console,
            refresh_per_second=2,
            transient=True,
            get_renderable=lambda: view(console.width, console.height),
        )

    @property
    def width(self) -> int:
        return self._console.width

    def start(self) -> None:
        self._live.start(refresh=True)

    def stop(self) -> None:
        self._live.stop()

    def line(self, text: str, style: str = "") -> None:
        say(self._console, text, style)


class Notebook(Screen):
    """A notebook: one output that is updated in place, with the last lines above the live view.

    Args:
        view: Draws the present state.
        keep: How many lines are kept.
    """

    moving = True

    def __init__(self, view: View, keep: int) -> None:
        self._view, self._lines = view, deque[Text](maxlen=keep)
        self._left_out = 0
        self._handle: Any = None

    @property
    def width(self) -> int:
        return 100

    def start(self) -> None:
        self.refresh()

    def stop(self) -> None:
        self.refresh()

    def line(self, text: str, style: str = "") -> None:
        self._left_out += len(self._lines) == self._lines.maxlen
        self._lines.append(Text(text, style))
        self.refresh()

    def refresh(self) -> None:
        from IPython.display import display

        bundle = self._drawn()
        if self._handle is None:
            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)

    def _drawn(self) -> dict[str, str]:
        """What is shown, by MIME type."""
        earlier = [Text(f"... {self._left_out} earlier lines", "dim")] if self._left_out else []
        console = Console(file=io.StringIO(), record=True, width=self.width, force_jupyter=False, force_terminal=True)
        console.print(Group(*earlier, *self._lines, self._view(self.width, 40)))
        page = console.export_html(inline_styles=True, code_format=PAGE, clear=False)
        return {"text/plain": console.export_text(), "text/html": page}


def screen_for(console: Console, view: View, *, keep: int, moving: bool = True) -> Screen:
    """The screen that fits a console; if it is not to move, lines."""
    if not moving:
        return Lines(console)
    if console.is_jupyter:
        return Notebook(view, keep)
    if console.is_terminal and not console.is_dumb_terminal:
        return Terminal(console, view)
    return Lines(console)
