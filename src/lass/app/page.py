"""Layout of the page, and what its controls do."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
from gradio_client.utils import is_http_url_like, traverse

from lass.app.models import Model
from lass.app.outcome import Outcome
from lass.app.progress import Stopped
from lass.app.session import Sessions
from lass.app.settings import MAX_CANDIDATES, SAMPLERS, Settings, parse_classes, sampler_name
from lass.cli.reporting import sentence_for

TITLE = "LASS"
HERE = Path(__file__).parent
AUTO = "auto"
DRAW, OPEN = "Draw", "Open a file"
CLEAN_EVERY, KEPT = 600, 3600  # seconds: files of the uploads are removed after an hour
MOST_WAITING = 16  # separations in the queue
#: The number of sources follows that of the drawn digits, unless it is to be determined.
FOLLOW_DRAWING = "(digits, number) => number === 'auto' || digits.length < 2 ? number : String(digits.length)"
#: Updates in the browser, without the server.
SHOW_HOW = """(how) => ["%s", "%s"].map((each) => ({ __type__: "update", visible: each === how || "hidden" }))"""
SHOW_NUMBER = """(method) => ({ __type__: "update", visible: method !== "Greedy" })"""
ENABLE_IF_READY = "(chosen, ready) => ({ __type__: 'update', interactive: chosen === ready })"
DISABLE = "() => ({ __type__: 'update', interactive: false })"
SONGS = [".wav", ".flac", ".mp3", ".ogg"]
IMAGES = [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"]
STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.lass-title { margin-bottom: 10px; }
.lass-title h1 { margin: 0 !important; font-weight: 600; letter-spacing: 0.02em; }
.lass-title p { margin: 2px 0 0 !important; }
.lass-title p, .lass-summary p { color: var(--body-text-color-subdued); }
.lass-summary { min-height: 56px; }
#lass-canvas, #lass-figures { padding: 0 !important; }
"""


class Page(gr.Blocks):
    """Page that refuses files given by their address on the web, which gradio would download."""

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *arguments: Any, **options: Any) -> Any:
        """See `gr.Blocks`; `inputs` are what the browser sent."""
        traverse(inputs, _refuse_address, _has_address)
        return await super().preprocess_data(block_fn, inputs, *arguments, **options)


def theme() -> gr.themes.Base:
    """Plain theme with the fonts of the system, so that none is loaded."""
    fonts = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")]
    return gr.themes.Default(
        primary_hue="indigo", secondary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono
    )


def build_page(models: Sequence[Model], sessions: Sessions) -> gr.Blocks:
    """Build the page.

    Args:
        models: Separators to choose from; the first one is chosen.
        sessions: Sessions of the open pages.
    """
    by_name, first = {model.name: model for model in models}, models[0]
    with Page(title=TITLE, analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEPT)) as page:
        gr.Markdown(
            "# LASS\nSeparate a mixture into its sources with generative models of single sources.",
            elem_classes="lass-title",
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                name = gr.Dropdown(
                    [*by_name], value=first.name, label="Separator", visible=len(models) > 1, filterable=False
                )
                means = gr.Radio(**_means(first), show_label=False, container=False)
                drawing = gr.HTML(
                    **_component("canvas"),
                    value=[],
                    num_digits=max(first.numbers_of_sources),
                    visible=_shown(first.can_be_drawn),
                    elem_id="lass-canvas",
                )
                # One field for each kind of file: changes of its types or value could empty it during an upload.
                image = gr.File(
                    label="Image: the mean of its sources, resized if necessary",
                    file_types=IMAGES,
                    height=180,
                    visible=_shown(not first.is_audio and not first.can_be_drawn),
                    elem_id="lass-image",
                )
                song = gr.File(
                    label="Song: WAV, FLAC, MP3 or Ogg",
                    file_types=SONGS,
                    height=180,
                    visible=_shown(first.is_audio),
                    elem_id="lass-song",
                )
                number = gr.Radio(**_numbers(first), label="Number of sources")
                with gr.Accordion("Settings", open=False):
                    classes = gr.Textbox(**_classes(first), label="Classes of the sources", max_length=200)
                    sampler = gr.Dropdown(**_sampler(first), label="Sampler", filterable=False)
                    candidates = gr.Number(**_candidates(first), label="Candidates", minimum=1, maximum=MAX_CANDIDATES)
                    with gr.Row():
                        weight = gr.Number(
                            value=first.separator.likelihood_weight,
                            label="λ, weight of the likelihood",
                            minimum=0,
                            step=0.05,
                        )
                        seed = gr.Number(value=0, label="Seed", precision=0, minimum=0)
                with gr.Row():
                    ready = gr.Textbox(first.name, visible="hidden")  # separator to which the controls belong
                    separate = gr.Button("Separate", variant="primary", elem_id="lass-separate")
                    stop = gr.Button("Stop", elem_id="lass-stop", min_width=80)
            with gr.Column(scale=7, min_width=420):
                summary = gr.Markdown(_hint(first), elem_classes="lass-summary", elem_id="lass-summary")
                figures = gr.HTML(**_component("figures"), value=None, elem_id="lass-figures")
                files = gr.DownloadButton("Download all files", visible=False, size="md", elem_id="lass-download")

        results: list[Any] = [summary, figures, files]

        def run(
            chosen: str,
            how: str,
            strokes: Any,
            image_path: str | None,
            song_path: str | None,
            sources: str | None,
            typed: str,
            method: str | None,
            num: int | None,
            exponent: int | float | None,
            number_of_seed: int | None,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio finds it in the signature)
        ) -> list[Any]:
            model = by_name[chosen]
            try:
                settings = Settings(
                    num_sources=None if sources is None else 0 if sources == AUTO else int(sources),
                    classes=parse_classes(typed, model.num_classes) if model.num_classes else None,
                    sampler=method,
                    num_candidates=num,
                    likelihood_weight=None if exponent is None else float(exponent),
                    seed=number_of_seed or 0,
                )
                path = song_path if model.is_audio else image_path
                source = strokes if how == DRAW else None if path is None else Path(path)
                outcome = sessions[_key(request)].separate(source, model, settings, progress)
            except Stopped:
                gr.Info("Stopped.", duration=3)
                return [gr.skip()] * len(results)
            except Exception as error:
                sentence = sentence_for(error)
                if sentence is None:
                    raise
                raise gr.Error(html.escape(sentence), print_exception=False) from error
            return _results(outcome)

        def stop_separation(request: gr.Request) -> None:
            sessions.stop(_key(request))

        def end(request: gr.Request) -> None:
            sessions.close(_key(request))

        separation = separate.click(
            run,
            [name, means, drawing, image, song, number, classes, sampler, candidates, weight, seed],
            results,
            show_progress_on=summary,
            concurrency_limit=1,
            concurrency_id="separation",
            api_visibility="private",
        )
        hidden: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        stop.click(stop_separation, None, None, cancels=separation, **hidden)  # cancels: those that wait in the queue
        drawing.change(None, [drawing, number], number, js=FOLLOW_DRAWING, **hidden)
        # input, not change: the update for another separator is one event, which causes no others.
        means.input(None, means, [drawing, image], js=SHOW_HOW % (DRAW, OPEN), **hidden)
        sampler.input(None, sampler, candidates, js=SHOW_NUMBER, **hidden)
        name.input(None, None, separate, js=DISABLE, **hidden)  # until the controls are those of the separator
        controls = [ready, means, drawing, image, song, number, classes, sampler, candidates, weight]
        change = name.input(
            lambda chosen: _controls(by_name[chosen]),
            name,
            [*controls, *results],
            trigger_mode="always_last",
            **hidden,
        )
        change.then(None, [name, ready], separate, js=ENABLE_IF_READY, **hidden)
        page.unload(end)
    return page.queue(max_size=MOST_WAITING)


def _has_address(value: object) -> bool:
    return isinstance(value, dict) and is_http_url_like(value.get("path"))


def _refuse_address(file: object) -> None:
    raise gr.Error("Files are uploaded, not given by their address.", print_exception=False)


def _key(request: gr.Request) -> str:
    """Identifier of an open page."""
    return request.session_hash or ""


def _results(outcome: Outcome) -> list[Any]:
    """Values of the results."""
    pictures = [{**picture._asdict(), "path": str(picture.path)} for picture in outcome.pictures]
    candidates = [{"paths": [*map(str, each.paths)], "caption": each.caption} for each in outcome.candidates]
    tracks = [
        {"path": str(track.path), "spectrogram": str(track.spectrogram), "caption": track.name}
        for track in outcome.tracks
    ]
    figures = {"pictures": pictures, "candidates": candidates, "tracks": tracks}
    return [outcome.summary, figures, gr.update(value=str(outcome.archive), visible=True)]


def _controls(model: Model) -> list[Any]:
    """Values of all controls and results for another separator."""
    return [
        model.name,
        gr.update(**_means(model)),
        gr.update(num_digits=max(model.numbers_of_sources), visible=_shown(model.can_be_drawn)),
        gr.update(visible=_shown(not model.is_audio and not model.can_be_drawn)),
        gr.update(visible=_shown(model.is_audio)),
        gr.update(**_numbers(model)),
        gr.update(**_classes(model)),
        gr.update(**_sampler(model)),
        gr.update(**_candidates(model)),
        model.separator.likelihood_weight,
        _hint(model),
        None,
        gr.update(value=None, visible=False),
    ]


def _numbers(model: Model) -> dict[str, Any]:
    numbers = [str(number) for number in model.numbers_of_sources]
    choices = [*numbers, AUTO] if model.can_count_sources else numbers
    return {"choices": choices, "value": str(model.separator.num_sources), "visible": len(choices) > 1}


def _classes(model: Model) -> dict[str, Any]:
    most = model.num_classes - 1
    return {"value": "", "visible": most > 0, "placeholder": f"e.g. 3 8; numbers from 0 to {most}, or nothing"}


def _sampler(model: Model) -> dict[str, Any]:
    own = sampler_name(model.separator.sampler)
    return {"choices": [*SAMPLERS], "value": own}


def _candidates(model: Model) -> dict[str, Any]:
    sampler = model.separator.sampler
    return {"value": sampler.num_candidates, "visible": sampler_name(sampler) != "Greedy", "precision": 0}


def _means(model: Model) -> dict[str, Any]:
    """How a mixture can be given."""
    return {"choices": [DRAW, OPEN], "value": DRAW if model.can_be_drawn else OPEN, "visible": model.can_be_drawn}


def _shown(is_shown: bool) -> Any:
    """Visibility of the canvas or a file, which is kept while it is hidden."""
    return True if is_shown else "hidden"


def _hint(model: Model) -> str:
    if model.can_be_drawn:
        return "Draw a digit, choose *2*, draw another one over it, and press *Separate*."
    return f"Open {'a song' if model.is_audio else 'an image'} and press *Separate*."


def _component(name: str) -> dict[str, Any]:
    """Arguments of `gr.HTML` for one of the components of the page: its HTML, CSS and JavaScript files."""
    suffixes = {"html_template": "html", "css_template": "css", "js_on_load": "js"}
    parts = {part: (HERE / f"{name}.{suffix}").read_text(encoding="utf-8") for part, suffix in suffixes.items()}
    return {**parts, "apply_default_css": False}
