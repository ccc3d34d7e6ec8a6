import io

from rich.console import Console

from visionsparse.progress import ProgressBar

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


def terminal():
    return Console(file=io.StringIO(), force_terminal=True, width=100)


def test_a_terminal_shows_what_is_done_how_fast_and_how_long_it_will_take(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("visionsparse.progress.time.monotonic", lambda: float(next(clock)))
    console = terminal()
    console.get_time = lambda: float(next(clock))

    with ProgressBar(4000, "images", console=console) as bar:
        for done in (1000, 2000, 3000):
            bar.update(done, f"test {done}/4000")

    shown = console.file.getvalue()
    assert "test 3000/4000" in shown
    assert " 75%" in shown
    assert "images/s" in shown
    assert "0:00:10" in shown  # 1000 in 10 seconds, 1000 to go
    assert shown.index(HIDE_CURSOR) < shown.index(SHOW_CURSOR)


def test_the_terminal_is_given_back_after_an_error():
    console = terminal()

    try:
        with ProgressBar(4, "images", console=console):
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        pass

    assert SHOW_CURSOR in console.file.getvalue()


def test_a_log_or_a_pipe_and_a_process_that_is_not_the_first_show_nothing():
    pipe, other = Console(file=io.StringIO()), terminal()

    for console, is_shown in ((pipe, True), (other, False)):
        with ProgressBar(4, "images", is_shown=is_shown, console=console) as bar:
            bar.update(2, "half")

    assert pipe.file.getvalue() == ""
    assert other.file.getvalue() == ""


def test_closing_twice_is_once():
    console = terminal()
    bar = ProgressBar(4, "images", console=console)
    with bar:
        bar.close()
        first = console.file.getvalue()

    assert console.file.getvalue() == first
