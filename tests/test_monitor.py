import io
import re

import numpy as np
import pytest
from rich.console import Console

from wspace import monitor, spec
from wspace.monitor import Bar


def drawn(actions, *, terminal=True, name="toy", **options) -> str:
    """What a console shows after the actions on a Bar."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=terminal, force_interactive=terminal, width=160, color_system=None)
    with Bar(console, name, **options) as bar:
        actions(bar)
    return re.sub(r"\x1b\[[^A-Za-z]*[A-Za-z]|\r", "\n", file.getvalue()).strip()  # without the cursor's movements


def losses(*values):
    return np.array(values, np.float32)


def test_the_bar_shows_share_rate_time_left_loss_and_diverged_count():
    def actions(bar):
        bar.begin(1000, 0)
        bar.checkpoint(0, losses(2.0, 4.0, np.nan))
        bar.advance(50)
        bar.advance(200)
        bar.diverged(7, 13)
        bar.diverged(9, 14)

    text = drawn(actions)
    last = text.splitlines()[-1]
    for part in ("toy", "25%", "net-steps/s", "left", "train loss 3", "2 diverged"):
        assert part in last
    assert "seed 7 diverged at step 13; the others go on" in text
    assert "seed 9 diverged at step 14; the others go on" in text


def test_without_a_terminal_plain_lines_say_the_same(monkeypatch):
    clock = iter([100.0, 100.0 + monitor.LINE_SECONDS + 10, 100.0 + monitor.LINE_SECONDS + 11])
    monkeypatch.setattr(monitor.time, "monotonic", lambda: next(clock))

    def actions(bar):
        bar.begin(5000, 1000)
        bar.checkpoint(10, losses(0.5, 0.25, 0.125))
        bar.diverged(3, 8)
        bar.advance(10)  # compiles: not counted
        bar.advance(990)  # 20 seconds: 49.5 a second, 3000 left
        bar.advance(500)

    assert drawn(actions, terminal=False).splitlines() == [
        "toy: resuming at 20%",
        "seed 3 diverged at step 8; the others go on",
        "toy: 40%, 49.5 net-steps/s, 61 s left, train loss 0.25, 1 diverged",
    ]


def test_short_runs_print_no_plain_lines():
    def actions(bar):
        bar.begin(10, 0)
        for _ in range(10):
            bar.advance(1)

    assert drawn(actions, terminal=False) == ""


@pytest.mark.parametrize(
    ("already", "message"),
    [(0, None), (50, "toy: resuming at 50%"), (100, "toy: complete, nothing to train")],
)
def test_what_an_earlier_session_stored_is_said(already, message):
    assert drawn(lambda bar: bar.begin(100, already), terminal=False).splitlines() == ([message] if message else [])


def test_losses_that_are_not_finite_are_called_so():
    def actions(bar):
        bar.begin(100, 0)
        bar.checkpoint(5, losses(np.nan, np.inf))

    assert "train loss not finite" in drawn(actions)


def test_each_point_of_a_sweep_is_labelled_and_counted_afresh():
    first, second = (point for point in spec.grid(spec.parse({"sweep": {"optimizer.learning_rate": [0.1, 0.2]}})))

    def actions(bar):
        bar.of_point(first).begin(100, 0)
        bar.checkpoint(0, losses(1.5))
        bar.diverged(1, 1)
        bar.advance(100)
        bar.of_point(second).begin(100, 0)

    last = drawn(actions, num_runs=2).splitlines()[-1]
    assert "2/2 learning_rate=0.2" in last
    assert "0%" in last
    assert "diverged" not in last
    assert "train loss" not in last


def test_names_are_text_and_never_markup():
    assert "[red]x[/red]" in drawn(lambda bar: bar.begin(100, 50), terminal=False, name="[red]x[/red]")


@pytest.mark.parametrize(("rate", "text"), [(0.25, "0.2"), (999.0, "999.0"), (1000.0, "1.0 k"), (45_678.0, "45.7 k")])
def test_rates_are_short(rate, text):
    assert monitor._count(rate) == text
