"""Sessions: each open page has one, with a folder of its own that is removed with it."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path

from lass.app.drawing import draw_mixture, parse_drawing
from lass.app.images import read_mixture, separate_image
from lass.app.models import Model
from lass.app.outcome import Outcome
from lass.app.progress import Report, Stopped, Watch
from lass.app.settings import Limits, Settings
from lass.app.songs import separate_song
from lass.errors import LassError


class Session:
    """One open page.

    Args:
        folder: Existing folder for the files of all sessions.
        limits: Limits on what is separated.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = Path(tempfile.mkdtemp(dir=folder, prefix="session-")), limits
        self._stop, self._closed = threading.Event(), False
        self._running = threading.Lock()
        self._latest: Path | None = None

    def separate(self, source: Path | object, model: Model, settings: Settings, report: Report) -> Outcome:
        """Separate a file, or a drawing (see `parse_drawing`); the files of the separation before are removed.

        Args:
            source: Path of an uploaded file, or a drawing from the browser.
            model: Model to separate with.
            settings: Settings of the separation.
            report: Function that shows the progress.

        Raises:
            LassError: for bad input.
            Stopped: if it was cancelled by `stop` or `close`.
        """
        with self._running:
            self._stop.clear()
            if self._closed:
                raise Stopped
            folder = Path(tempfile.mkdtemp(dir=self.folder))
            try:
                outcome = self._separate(source, model, settings, folder, Watch(report, self._stop))
            except BaseException as error:
                shutil.rmtree(folder, ignore_errors=True)
                if isinstance(error, LassError) and isinstance(source, Path):  # the path is the server's own business
                    raise LassError(str(error).replace(str(source), source.name)) from error
                raise
            finally:
                if self._closed:
                    shutil.rmtree(self.folder, ignore_errors=True)
            if self._latest is not None:
                shutil.rmtree(self._latest, ignore_errors=True)
            self._latest = folder
            return outcome

    def _separate(self, source: Path | object, model: Model, settings: Settings, folder: Path, watch: Watch) -> Outcome:
        if isinstance(source, Path):
            if not source.is_file():
                raise LassError(f"{source.name} is no longer there: open it again.")
            if source.stat().st_size > self.limits.megabytes * 10**6:
                raise LassError(f"{source.name} is larger than {self.limits.megabytes} MB.")
            if model.is_audio:
                return separate_song(source, model, settings, self.limits, folder, watch)
            return separate_image(read_mixture(source, model, self.limits), model, settings, folder, watch)
        if not model.can_be_drawn:
            raise LassError("This separator's mixtures cannot be drawn: open a file.")
        digits = parse_drawing(source)
        if not digits:
            raise LassError("There is nothing to separate yet: draw two digits, or open a file.")
        number = model.separator.num_sources if settings.num_sources is None else settings.num_sources
        if number and len(digits) != number:
            raise LassError(
                f"{len(digits)} digit{'s are' if len(digits) > 1 else ' is'} drawn for {number} sources: draw "
                f"{number}, or choose another number of sources."
            )
        mixture = draw_mixture(digits, *model.image_shape[1:])
        return separate_image(mixture, model, settings, folder, watch)

    def stop(self) -> None:
        """Cancel the separation in progress, at its next code position."""
        self._stop.set()

    def close(self) -> None:
        """Cancel the separation in progress, and remove all files of the session."""
        self._closed = True
        self._stop.set()
        if self._running.acquire(blocking=False):  # otherwise, the separation removes them when it ends
            shutil.rmtree(self.folder, ignore_errors=True)
            self._running.release()

    def wait(self) -> None:
        """Return when no separation is in progress."""
        with self._running:
            pass


class Sessions:
    """All sessions, by the identifier of their page.

    Args:
        folder: Existing folder for all temporary files, uploads included.
        limits: Limits on what is separated.
    """

    def __init__(self, folder: Path, limits: Limits) -> None:
        self.folder, self.limits = folder, limits
        self._sessions: dict[str, Session] = {}
        self._lock = threading.Lock()

    def __getitem__(self, key: str) -> Session:
        """The session of a page, which is opened if there is none."""
        with self._lock:
            if key not in self._sessions:
                self._sessions[key] = Session(self.folder, self.limits)
            return self._sessions[key]

    def stop(self, key: str) -> None:
        """Cancel the separation of a page, if there is one."""
        with self._lock:
            session = self._sessions.get(key)
        if session is not None:
            session.stop()

    def close(self, key: str) -> None:
        """End the session of a page, if it has one, and remove its files.

        Uploads are removed by gradio after an hour, because pages that open the same file share it.
        """
        with self._lock:
            session = self._sessions.pop(key, None)
        if session is not None:
            session.close()

    def close_all(self) -> None:
        """End all sessions, and return when no separation is in progress."""
        with self._lock:
            sessions, self._sessions = [*self._sessions.values()], {}
        for session in sessions:
            session.close()
        for session in sessions:
            session.wait()
