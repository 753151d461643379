"""The terminal application: keys to a source and to where the reader is, frames to the screen.

Only this module needs textual. A thread makes frames, thirty a second where that leaves the workload at least
half of a processor; the application draws each, and sends only the lines that differ from those before.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any, Final

from rich.style import Style
from textual import events
from textual.app import App, ComposeResult
from textual.geometry import Region, Size
from textual.strip import Strip
from textual.widget import Widget

from nvme_emu.observe.rpc_client import RpcError
from nvme_emu.observe.tui.frame import Frame
from nvme_emu.observe.tui.ink import Lines, plain, segments
from nvme_emu.observe.tui.screen import CHROME_LINES, body, screen, view_of, views_of
from nvme_emu.observe.tui.source import Source
from nvme_emu.observe.tui.ui import Ui, matches
from nvme_emu.observe.tui.views.faults import selected_fault
from nvme_emu.observe.tui.views.queues import slots_wanted

__all__ = ["FRAMES_PER_S", "TopApp"]

FRAMES_PER_S = 30
EVENTS_SHOWN = 400
"""Events that the trace view can be scrolled through."""
TRAVEL_FAR = 100
"""Events that the braces travel."""


# Not Textual's bindings: those run when a key has come up from the widget to the application, by when the widget
# has seen the keys typed after it. One table, asked in order, and fast typing cannot overtake itself.
KEYS: Final[dict[str, tuple[Any, ...]]] = {
    **{str(number): ("view", number) for number in range(1, 10)},
    "tab": ("next_view", 1),
    "shift+tab": ("next_view", -1),
    **dict.fromkeys(("up", "k"), ("move", -1)),
    **dict.fromkeys(("down", "j"), ("move", 1)),
    "pageup": ("move", -10),
    "pagedown": ("move", 10),
    **dict.fromkeys(("left", "h"), ("slot", 1)),
    **dict.fromkeys(("right", "l"), ("slot", -1)),
    "enter": ("open",),
    "escape": ("shut",),
    "space": ("steer", "toggle_pause"),
    "s": ("steer", "step", "command"),
    "e": ("steer", "step", "event"),
    "minus": ("steer", "slow", 1),
    **dict.fromkeys(("plus", "equals_sign"), ("steer", "slow", -1)),
    "left_square_bracket": ("steer", "travel", -1),
    "right_square_bracket": ("steer", "travel", 1),
    "left_curly_bracket": ("steer", "travel", -TRAVEL_FAR),
    "right_curly_bracket": ("steer", "travel", TRAVEL_FAR),
    "home": ("steer", "travel_to", "first"),
    "end": ("steer", "travel_to", "now"),
    "slash": ("ask", "search"),
    "f": ("ask", "filter"),
    "n": ("found", 1),
    **dict.fromkeys(("N", "upper_n"), ("found", -1)),
    **dict.fromkeys(("c", "y"), ("copy",)),
    "a": ("arm",),
    "question_mark": ("help",),
    "q": ("leave", 0),
    "ctrl+c": ("leave", 130),
}
"""What each key does: a method of the application and its arguments."""


class Screenful(Widget, can_focus=True):
    """Lines of text that fill the screen."""

    def __init__(self) -> None:
        super().__init__()
        self._lines: Lines = []
        self._style: Style | None = None

    def on_key(self, event: events.Key) -> None:
        """Keys are words while the application asks for some, and commands otherwise."""
        app = self.app
        if not isinstance(app, TopApp):
            return
        if app.ui.asks and event.key != "ctrl+c":
            app.type_key(event)
        elif event.key in KEYS:
            name, *args = KEYS[event.key]
            getattr(app, f"do_{name}")(*args)
        else:
            return
        event.stop()
        event.prevent_default()

    def show(self, lines: Lines) -> None:
        """Draw what differs from the lines before."""
        before, self._lines = self._lines, lines
        self._style = self.rich_style  # as dear as a line, so once a page
        if len(before) != len(lines):
            self.refresh()
            return
        width = max(self.size.width, lines[0].cell_len)
        changed = [Region(0, y, width, 1) for y, text in enumerate(lines) if text != before[y]]
        if changed:
            self.refresh(*changed)

    def render_line(self, y: int) -> Strip:
        """Textual asks for the lines of the regions that were refreshed."""
        if y >= len(self._lines):
            return Strip.blank(self.size.width)
        pieces = segments(self._lines[y], self._style or self.rich_style, self.app.console)
        return Strip(pieces).adjust_cell_length(self.size.width)


class TopApp(App[None]):
    """The inspector over a source. ``frames_per_s=0`` makes a frame only when a key was pressed (tests)."""

    CSS = """
    Screen { background: #16161e; overflow: hidden; }
    Screenful { width: 100%; height: 100%; background: #16161e; color: #c0caf5; }
    """
    TITLE = "nvme-emu top"
    ENABLE_COMMAND_PALETTE = False
    def __init__(self, source: Source, *, view: str = "overview", frames_per_s: float = FRAMES_PER_S) -> None:
        super().__init__()
        self.ui = Ui(view=view)
        self.source = source
        self.drawn = 0
        self._lock = threading.Lock()
        self._frames_per_s = frames_per_s
        self._frame: Frame | None = None
        self._leaving = threading.Event()
        self._thread: threading.Thread | None = None
        self._times_s: deque[float] = deque(maxlen=30)
        self._cost_s = 0.0

    # --- frames ---------------------------------------------------------------------------------------------

    def compose(self) -> ComposeResult:
        """One page, which draws everything."""
        yield Screenful()

    def on_mount(self) -> None:
        """Start making frames."""
        self.query_one(Screenful).focus()
        self._refresh_frame()
        if self._frames_per_s:
            self._thread = threading.Thread(target=self._make_frames, name="nvme-emu top", daemon=True)
            self._thread.start()

    def on_unmount(self) -> None:
        """Make no more."""
        self._leaving.set()

    def _make_frames(self) -> None:
        period_s = 1 / self._frames_per_s
        due_s = time.monotonic()
        while not self._leaving.is_set():
            begun_cpu_s = time.thread_time()
            try:
                with self._lock:
                    frame = self.source.frame()
                self.call_from_thread(self._show, frame, time.thread_time() - begun_cpu_s)
            except RuntimeError:
                return  # the application has ended
            except TimeoutError:
                continue  # the simulation is at something long; its last picture stands
            # A frame that came late does not make the next one late.
            now_s = time.monotonic()
            due_s = max(due_s + period_s, now_s + self._cost_s)
            self._leaving.wait(due_s - now_s)

    def _show(self, frame: Frame, made_s: float) -> None:
        begun_s = time.thread_time()
        self._frame = self._with_cost(frame)
        self._draw()
        self.call_after_refresh(self.source.drawn)
        self._cost_s = made_s + time.thread_time() - begun_s
        self._times_s.append(time.monotonic())
        self.drawn += 1

    def _with_cost(self, frame: Frame) -> Frame:
        times = self._times_s
        if len(times) < 2:
            return frame
        per_s = (len(times) - 1) / max(1e-6, times[-1] - times[0])
        return replace(frame, cost=replace(frame.cost, frames_per_s=per_s, frame_ms=self._cost_s * 1e3))

    def _refresh_frame(self) -> None:
        """A frame now, because a key was pressed."""
        with self._lock:
            self._frame = self._with_cost(self.source.frame())
        self._draw()

    def _draw(self, size: Size | None = None) -> None:
        frame, size = self._frame, size or self.size
        if frame is None or not size.width:
            return
        self.source.entries = slots_wanted(size.width, size.height) if self.ui.view == "queues" else 0
        self.source.events = EVENTS_SHOWN if self.ui.view == "trace" else 0
        self.query_one(Screenful).show(screen(frame, self.ui, size.width, size.height))

    def on_resize(self, event: events.Resize) -> None:
        """The same frame at another size, which only the event knows yet."""
        self._draw(event.size)

    # --- where the reader is ---------------------------------------------------------------------------------

    def _go(self, ui: Ui) -> None:
        self.ui = replace(ui, message="")
        self._draw()

    def _say(self, message: str) -> None:
        self.ui = replace(self.ui, message=message)
        self._draw()

    def do_view(self, number: int) -> None:
        """Go to a view by its key."""
        views = views_of(self._frame) if self._frame is not None else []
        if number <= len(views):
            self.ui = self.ui.to(views[number - 1].name)
            self._draw()
            self._refresh_frame()

    def do_next_view(self, step: int) -> None:
        """Go to the next view."""
        if self._frame is not None:
            names = [view.name for view in views_of(self._frame)]
            here = names.index(view_of(self._frame, self.ui).name)
            self.do_view((here + step) % len(names) + 1)

    def _rows(self) -> list[str]:
        frame = self._frame
        return [] if frame is None else view_of(frame, self.ui).rows(frame, self.ui)

    def do_move(self, step: int) -> None:
        """Select another row, or scroll what is open."""
        if self.ui.detail or self.ui.help:
            self._go(replace(self.ui, scroll=max(0, self.ui.scroll + step)))
        else:
            last = max(0, len(self._rows()) - 1)
            self._go(self.ui.at(min(last, max(0, min(self.ui.cursor, last) + step))))

    def do_slot(self, step: int) -> None:
        """Choose another slot of the ring."""
        if self.ui.view == "queues":
            most = slots_wanted(self.size.width, self.size.height) - 1
            self._go(replace(self.ui, slot=max(0, min(most, self.ui.slot + step))))

    def do_open(self) -> None:
        """Show the selected thing at length."""
        if self._frame is not None and view_of(self._frame, self.ui).detail is not None:
            self._go(replace(self.ui, detail=not self.ui.detail, help=False, scroll=0))

    def do_shut(self) -> None:
        """Close what is open; then take the filter away."""
        if self.ui.detail or self.ui.help:
            self._go(replace(self.ui, detail=False, help=False, scroll=0))
        else:
            self._go(replace(self.ui, filter="", search=""))

    def do_help(self) -> None:
        """Show the keys."""
        self._go(replace(self.ui, help=not self.ui.help, scroll=0))

    def on_mouse_scroll_down(self, event: events.MouseScrollDown) -> None:
        """The wheel moves as the arrows do."""
        self.do_move(1)

    def on_mouse_scroll_up(self, event: events.MouseScrollUp) -> None:
        """The wheel moves as the arrows do."""
        self.do_move(-1)

    # --- search, filter, copy --------------------------------------------------------------------------------

    def do_ask(self, what: str) -> None:
        """Let words be typed, in the last line."""
        self._go(replace(self.ui, asks=what, typed=self.ui.filter if what == "filter" else ""))

    def type_key(self, event: events.Key) -> None:
        """One key while words are typed. The next one already finds it done, however fast it comes."""
        ui = self.ui
        if event.key == "escape":
            self._go(replace(ui, asks="", typed=""))
        elif event.key == "enter":
            self._typed(ui.asks, ui.typed)
        elif event.key == "backspace":
            self._go(replace(ui, typed=ui.typed[:-1]))
        elif event.key == "ctrl+u":
            self._go(replace(ui, typed=""))
        elif event.is_printable and event.character:
            self._go(replace(ui, typed=ui.typed + event.character))

    def on_paste(self, event: events.Paste) -> None:
        """Pasted words are typed."""
        if self.ui.asks:
            self._go(replace(self.ui, typed=self.ui.typed + " ".join(event.text.split())))

    def _typed(self, what: str, words: str) -> None:
        self.ui = replace(self.ui, asks="", typed="")
        if what == "filter":
            self._go(replace(self.ui.at(0), filter=words))
        else:
            self.ui = replace(self.ui, search=words)
            self.do_found(1, here=True)

    def do_found(self, step: int, here: bool = False) -> None:
        """Select the next row that has the words searched for; around the end to the beginning."""
        rows, wanted = self._rows(), self.ui.search
        if not wanted:
            self._say("nothing is searched for: / asks for words")
            return
        start = min(self.ui.cursor, max(0, len(rows) - 1)) + (0 if here else step)
        for offset in range(len(rows)):
            index = (start + offset * step) % len(rows)
            if matches(rows[index], wanted):
                self._go(self.ui.at(index))
                return
        self._say(f"no row of this view has {wanted!r}")

    def do_copy(self) -> None:
        """Copy the selected row, or what the view shows, to the terminal's clipboard."""
        frame, ui = self._frame, self.ui
        if frame is None:
            return
        rows = self._rows()
        if rows and not ui.detail and ui.view not in ("overview", "queues"):
            told, text = "the row", rows[min(ui.cursor, len(rows) - 1)]
        else:
            told, text = "the page", plain(body(frame, ui, self.size.width, self.size.height - CHROME_LINES))
        self.copy_to_clipboard(text)
        self._say(f"copied {told}: {len(text)} characters, by OSC 52")

    # --- time and faults -------------------------------------------------------------------------------------

    def do_steer(self, act: str, *args: object) -> None:
        """Tell the source; what it cannot do it says why."""
        try:
            with self._lock:
                getattr(self.source, act)(*args)
        except (ValueError, OSError, RpcError) as error:
            self._say(str(error))
            return
        self.ui = replace(self.ui, message="")
        self._refresh_frame()

    def do_leave(self, code: int) -> None:
        """End; the code is the process's."""
        self.exit(return_code=code)

    def do_arm(self) -> None:
        """Arm or disarm the selected rule."""
        frame = self._frame
        if frame is None or view_of(frame, self.ui).name != "faults":
            return
        fault = selected_fault(frame, self.ui)
        if fault is None:
            self._say("there are no fault rules")
            return
        self.do_steer("arm", fault.rule, not fault.armed)

