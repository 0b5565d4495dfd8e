"""`lass app`: serve a page that separates drawn or dropped images and songs."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lass.app.models import Model, load_models
from lass.app.session import Sessions
from lass.app.settings import Limits
from lass.cli.parser_errors import SentenceParser
from lass.errors import LassError, check_number


def main(args: Sequence[str]) -> None:
    """Run `lass app`; see `lass app --help`.

    Raises:
        LassError: if gradio is not installed, a separator cannot be loaded, or the address cannot be bound to.
    """
    options = parser().parse_args(args[1:])
    limits = Limits(options.max_megabytes, options.max_seconds, options.max_pixels)
    if options.port is not None:
        check_number("--port", options.port, at_least=1, at_most=65535, whole=True)
    models = load_models(options.separator or [], options.device)
    with serving(models, limits, options.host, options.port) as address:
        print(f"LASS: the page is at {address}; Ctrl-C stops it.", flush=True)
        _wait()


def _wait() -> None:
    """Return after Ctrl-C or SIGTERM, so that temporary files are removed after both."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        while not ended.wait(1.0):
            pass
    except KeyboardInterrupt:
        pass


@contextmanager
def serving(models: Sequence[Model], limits: Limits, host: str = "127.0.0.1", port: int | None = None) -> Iterator[str]:
    """Serve the page in a thread while the context is open, and remove all temporary files at its end.

    Args:
        models: Separators to choose from.
        limits: Limits on what is separated.
        host: Address to bind to.
        port: Port; default the first one that is free from 7860 on.

    Yields:
        Address of the page.

    Raises:
        LassError: if gradio is not installed, or the address cannot be bound to.
    """
    with tempfile.TemporaryDirectory(prefix="lass-app-", ignore_cleanup_errors=True) as folder:
        sessions = Sessions(Path(folder), limits)
        # Read by gradio when it is imported or builds a page.
        os.environ |= {
            "GRADIO_ANALYTICS_ENABLED": "False",
            "GRADIO_TEMP_DIR": folder,
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), "localhost", "127.0.0.1", "::1", host])),
        }
        try:
            from lass.app.page import STYLE, build_page, theme
        except ModuleNotFoundError as error:
            raise LassError(f"lass app needs gradio ({error}): pip install 'lass[app]'.") from error

        page = build_page(models, sessions)
        try:
            _, address, _ = page.launch(
                server_name=host,
                server_port=port,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                inbrowser=False,
                ssr_mode=False,
                enable_monitoring=False,
                run_history=False,
                footer_links=[],
                max_file_size=limits.megabytes * 10**6,
                theme=theme(),
                css=STYLE,
            )
        except OSError as error:
            where = f"{host}, port {port}" if port else host
            raise LassError(
                f"The page cannot be served at {where} ({error}): choose another --host or --port."
            ) from error
        try:
            yield address
        finally:
            sessions.close_all()  # a thread of torch that still runs when Python exits would abort the process
            page.close(verbose=False)


def parser() -> SentenceParser:
    """Build the parser of `lass app`."""
    limits = Limits()
    options = SentenceParser("lass app", "Serve a page that separates drawn or dropped images and songs.")
    options.add_argument(
        "--separator", action="append", type=str, help="folder of a separator, once or more; default all in pretrained/"
    )
    options.add_argument("--host", default="127.0.0.1", help="address to bind to; 0.0.0.0 serves the whole network")
    options.add_argument("--port", type=int, help="port; default the first one that is free from 7860 on")
    options.add_argument("--device", default="cpu", help="cpu, cuda, …")
    options.add_argument("--max-megabytes", type=int, default=limits.megabytes, help="limit of an uploaded file")
    options.add_argument("--max-seconds", type=float, default=limits.seconds, help="limit of a song's duration")
    options.add_argument("--max-pixels", type=int, default=limits.pixels, help="limit of an image's size")
    return options
