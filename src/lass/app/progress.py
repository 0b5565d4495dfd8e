"""Progress of a separation by code positions, and its cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

Report = Callable[[float, str], None]  # (fraction done, what is being done)


class Stopped(Exception):
    """Raised in a separation that was cancelled."""


class Watch:
    """Report the progress of a separation, and stop it at the next code position when it is cancelled.

    Args:
        report: Function that shows the progress.
        stop: Event that cancels the separation when it is set.
    """

    def __init__(self, report: Report, stop: threading.Event) -> None:
        self.report, self.stop = report, stop
        self._reported: tuple[int, str] | None = None  # in percent: a step that is not seen is not reported

    def step(self, fraction: float, what: str) -> None:
        """Report the progress; raises Stopped if the separation was cancelled."""
        if self.stop.is_set():
            raise Stopped
        fraction = min(fraction, 1.0)
        if (reported := (int(100 * fraction), what)) != self._reported:
            self._reported = reported
            self.report(fraction, what)

    def positions(
        self, what: str, num_positions: int, passes: int = 1
    ) -> Callable[[Sequence[list[int]]], Iterable[list[int]]]:
        """Wrapper of loops over code positions, see `lass.separation.algorithm.Progress`.

        Args:
            what: What is being done.
            num_positions: Code positions of the signal.
            passes: How often they are iterated over.
        """
        done = 0

        def watched(steps: Sequence[list[int]]) -> Iterable[list[int]]:
            nonlocal done
            for step in steps:
                self.step(done / (num_positions * passes), what)
                yield step
                done += 1

        return watched
