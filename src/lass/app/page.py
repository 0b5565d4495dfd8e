"""Layout of the page, and what its controls do."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from lass.app.models import Model
from lass.app.outcome import Outcome, Picture
from lass.app.progress import Stopped
from lass.app.session import Sessions
from lass.app.settings import MAX_CANDIDATES, SAMPLERS, Settings, parse_classes, sampler_name
from lass.cli.reporting import sentence_for

TITLE = "LASS"
HERE = Path(__file__).parent
AUTO = "auto"
CLEAN_EVERY, KEPT = 600, 3600  # seconds: files of the uploads are removed after an hour
MOST_WAITING = 16  # separations in the queue
SUFFIXES = {
    True: [".wav", ".flac", ".mp3", ".ogg"],
    False: [".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"],
}
STYLE = """
.gradio-container { max-width: 1180px !important; margin: 0 auto !important; }
.lass-pixels img { image-rendering: pixelated; }
.lass-title h1 { margin: 0; font-weight: 600; letter-spacing: 0.02em; }
.lass-title p, .lass-summary p { color: var(--body-text-color-subdued); }
.lass-summary { min-height: 3.2em; }
"""


def theme() -> gr.themes.Base:
    """Plain theme with the fonts of the system, so that none is loaded."""
    fonts = [gr.themes.Font("system-ui"), gr.themes.Font("sans-serif")]
    mono = [gr.themes.Font("ui-monospace"), gr.themes.Font("monospace")]
    return gr.themes.Soft(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)


def build_page(models: Sequence[Model], sessions: Sessions) -> gr.Blocks:
    """Build the page.

    Args:
        models: Separators to choose from; the first one is chosen.
        sessions: Sessions of the open pages.
    """
    by_name, first = {model.name: model for model in models}, models[0]
    with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(CLEAN_EVERY, KEPT)) as page:
        gr.Markdown(
            "# LASS\nSeparate a mixture into its sources with generative models of single sources.",
            elem_classes="lass-title",
        )
        is_drawn, tracks = gr.State(first.can_be_drawn), gr.State([])
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=320):
                name = gr.Dropdown(
                    [*by_name], value=first.name, label="Separator", visible=len(models) > 1, filterable=False
                )
                with gr.Tabs(selected="draw" if first.can_be_drawn else "file") as tabs:
                    with gr.Tab("Draw", id="draw", visible=first.can_be_drawn) as draw_tab:
                        drawing = gr.HTML(
                            value=[],
                            html_template=_part("canvas.html"),
                            css_template=_part("canvas.css"),
                            js_on_load=_part("canvas.js"),
                            apply_default_css=False,
                            num_digits=max(first.numbers_of_sources),
                            elem_id="lass-canvas",
                        )
                    with gr.Tab("Open a file", id="file") as file_tab:
                        file = gr.File(label=_file_label(first), height=180, file_types=SUFFIXES[first.is_audio])
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
                    separate = gr.Button("Separate", variant="primary", elem_id="lass-separate")
                    stop = gr.Button("Stop", elem_id="lass-stop", min_width=80)
            with gr.Column(scale=7, min_width=420):
                summary = gr.Markdown(_hint(first), elem_classes="lass-summary", elem_id="lass-summary")
                pictures = gr.Gallery(
                    label="Mixture, estimates, residual and entropy",
                    columns=4,
                    object_fit="contain",
                    height="auto",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    visible=False,
                    elem_classes="lass-pixels",
                    elem_id="lass-pictures",
                )
                others = gr.Gallery(
                    label="Other candidates, before refinement",
                    columns=6,
                    object_fit="contain",
                    height="auto",
                    interactive=False,
                    buttons=["download", "fullscreen"],
                    visible=False,
                    elem_classes="lass-pixels",
                    elem_id="lass-candidates",
                )

                @gr.render(inputs=tracks)
                def players(shown: list[tuple[str, str, str]]) -> None:
                    for path, spectrogram, caption in shown:
                        with gr.Row(equal_height=True):
                            gr.Audio(path, label=caption, interactive=False, buttons=["download"], scale=3)
                            gr.Image(
                                spectrogram,
                                show_label=False,
                                container=False,
                                interactive=False,
                                buttons=[],
                                height=120,
                                scale=2,
                            )

                files = gr.DownloadButton("Download all files", visible=False, size="md", elem_id="lass-download")

        results: list[Any] = [summary, pictures, others, tracks, files]

        def run(
            chosen: str,
            drawn: bool,
            strokes: Any,
            path: str | None,
            sources: str | None,
            typed: str,
            method: str | None,
            num: float | None,
            exponent: float | None,
            number_of_seed: float | None,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 (gradio finds it in the signature)
        ) -> list[Any]:
            model = by_name[chosen]
            try:
                settings = Settings(
                    num_sources=None if sources is None else 0 if sources == AUTO else int(sources),
                    classes=parse_classes(typed, model.num_classes) if model.num_classes else None,
                    sampler=method,
                    num_candidates=_whole(num),
                    likelihood_weight=exponent,
                    seed=_whole(number_of_seed) or 0,
                )
                source = strokes if drawn and model.can_be_drawn else None if path is None else Path(path)
                outcome = sessions[request.session_hash].separate(source, model, settings, progress)
            except Stopped:
                gr.Info("Stopped.", duration=3)
                return [gr.skip()] * len(results)
            except Exception as error:
                sentence = sentence_for(error)
                if sentence is None:
                    raise
                raise gr.Error(html.escape(sentence), print_exception=False) from error
            return _shown(outcome)

        def stop_separation(request: gr.Request) -> None:
            sessions.stop(request.session_hash)

        def end(request: gr.Request) -> None:
            sessions.close(request.session_hash)

        separate.click(
            run,
            [name, is_drawn, drawing, file, number, classes, sampler, candidates, weight, seed],
            results,
            show_progress_on=summary,
            concurrency_limit=1,
            concurrency_id="separation",
            api_visibility="private",
        )
        hidden: Any = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        stop.click(stop_separation, None, None, **hidden)
        draw_tab.select(lambda: True, None, is_drawn, **hidden)
        file_tab.select(lambda: False, None, is_drawn, **hidden)
        sampler.change(lambda method: gr.update(visible=method != "Greedy"), sampler, candidates, **hidden)
        name.change(
            lambda chosen: _controls(by_name[chosen]),
            name,
            [tabs, draw_tab, is_drawn, drawing, file, number, classes, sampler, candidates, weight, *results],
            **hidden,
        )
        page.unload(end)
    return page.queue(max_size=MOST_WAITING)


def _shown(outcome: Outcome) -> list[Any]:
    """Values of the results."""
    galleries = [_gallery(pictures) for pictures in (outcome.pictures, outcome.candidates)]
    tracks = [(str(track.path), str(track.spectrogram), track.name) for track in outcome.tracks]
    return [outcome.summary, *galleries, tracks, gr.update(value=str(outcome.archive), visible=True)]


def _gallery(pictures: Sequence[Picture]) -> Any:
    shown = [(str(path), caption) for path, caption in pictures]
    return gr.update(value=shown, visible=bool(shown), selected_index=None)


def _controls(model: Model) -> list[Any]:
    """Values of all controls and results for another separator."""
    nothing = gr.update(value=None, visible=False)
    return [
        gr.update(selected="draw" if model.can_be_drawn else "file"),
        gr.update(visible=model.can_be_drawn),
        model.can_be_drawn,
        gr.update(num_digits=max(model.numbers_of_sources)),
        gr.update(value=None, label=_file_label(model), file_types=SUFFIXES[model.is_audio]),
        gr.update(**_numbers(model)),
        gr.update(**_classes(model)),
        gr.update(**_sampler(model)),
        gr.update(**_candidates(model)),
        model.separator.likelihood_weight,
        _hint(model),
        nothing,
        nothing,
        [],
        nothing,
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


def _file_label(model: Model) -> str:
    return "Song: WAV, FLAC, MP3 or Ogg" if model.is_audio else "Image: the mean of its sources, resized if necessary"


def _hint(model: Model) -> str:
    if model.can_be_drawn:
        return "Draw a digit, choose *Digit 2*, draw another one over it, and press *Separate*."
    return f"Open {'a song' if model.is_audio else 'an image'} and press *Separate*."


def _whole(number: float | None) -> Any:
    """A number as an integer if it is one; anything else is refused by `Settings`."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


def _part(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")
