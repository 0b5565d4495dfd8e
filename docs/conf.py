"""Settings of Sphinx. `make docs` builds the pages in this folder, and the README files of the results, as HTML."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

from docutils import nodes
from myst_parser.parsers.sphinx_ import MystParser
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))  # these files, whatever version of lass is installed

import lass.metrics

#: Owner and name of the repository on GitHub, for links to its files and to Colab. Replace OWNER here and in the
#: notebooks' first cells (a test compares them); GitHub Actions sets the variable.
REPOSITORY = os.environ.get("GITHUB_REPOSITORY", "OWNER/lass")
DOCS = Path(__file__).parent
ROOT = DOCS.parent
#: README files that are pages.
PAGES = {path: DOCS / "results" / f"{path.parent.name}.md" for path in ROOT.glob("experiments/*/README.md")}
PAGES |= {
    ROOT / "experiments/README.md": DOCS / "results/index.md",
    ROOT / "benchmarks/README.md": DOCS / "results/speed.md",
}

project = "LASS"
author = "The LASS developers"
copyright = author
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".ipynb": "notebook"}
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = "LASS"
html_static_path = ["_static"]
html_css_files = ["small.css"]
html_show_sphinx = False
html_copy_source = False

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

toc_object_entries_show_parents = "hide"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
maximum_signature_line_length = 100
napoleon_numpy_docstring = False

# Single backticks in docstrings mark any code. Those that name a documented object become links, the others do not,
# and are not reported.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    # Names of other packages: their indices are on the network, and the pages are built without it.
    ("py:.*", r"(torch|jaxtyping|collections|numpy|pathlib|pytorch_lightning|huggingface_hub|PIL|matplotlib|tqdm)\b.*"),
    ("py:class", "Tensor|ndarray|Float|Int|Path"),
    # Types in signatures that callers need not know: states of priors, aliases, samplers of training batches.
    ("py:class", r"lass\.(priors|codecs|likelihood|tasks|report)\.\w+\.\w+|Progress|Direction|lass\.artifacts\.C"),
    ("py:class", r"lass\.(metrics\.scoring|data\.(tuple_samplers|codes|audio\.chunks))\.\w+"),
]


class Notebook(MystParser):
    """Notebooks as pages: Markdown cells as they are, code cells as Python, and a link that opens them in Colab."""

    supported = ("notebook",)

    def parse(self, inputstring: str, document: nodes.document) -> None:
        """Convert the cells to Markdown and parse it."""
        cells = [("".join(cell["source"]), cell["cell_type"]) for cell in json.loads(inputstring)["cells"]]
        parts = [text if kind == "markdown" else f"```python\n{text}\n```" for text, kind in cells]
        page = document.settings.env.docname
        address = f"https://colab.research.google.com/github/{REPOSITORY}/blob/main/docs/{page}.ipynb"
        parts.insert(1, f"[Open in Colab]({address})")
        super().parse("\n\n".join(parts), document)


def linked(text: str, folder: Path) -> str:
    """Rewrite the relative links of a Markdown text from `folder`, so that they work in any page.

    Links to pages and pictures in docs/ become absolute, the README file of an experiment leads to its page, and other
    files of the repository lead to GitHub.
    """

    def replace(match: re.Match[str]) -> str:
        path = Path(os.path.normpath(folder / match["target"]))
        if not path.exists():
            raise FileNotFoundError(f"{folder.relative_to(ROOT)} has a link to {match['target']}, which does not exist")
        path = PAGES.get(path, path)
        if path.is_relative_to(DOCS) and path.suffix in {".md", ".ipynb", ".png"}:
            target = f"/{path.relative_to(DOCS)}"
        else:
            kind = "tree" if path.is_dir() else "blob"
            target = f"https://github.com/{REPOSITORY}/{kind}/main/{path.relative_to(ROOT)}"
        return f"]({target}{match['anchor'] or ''})"

    return re.sub(r"\]\((?P<target>(?!\w+:)[^)#\s]+)(?P<anchor>#[^)\s]*)?\)", replace, text)


def read_page(app: Sphinx, docname: str, content: list[str]) -> None:
    """Rewrite the links of a page."""
    content[0] = linked(content[0], (DOCS / docname).parent)


def read_include(app: Sphinx, path: Path, docname: str, content: list[str]) -> None:
    """Rewrite the links of a file that is included in a page."""
    content[0] = linked(content[0], (DOCS / path).resolve().parent)


def escape(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Escape the characters that mean markup in reStructuredText only: docstrings have backticks and nothing else."""
    if what in ("attribute", "property"):
        lines.insert(0, "\\")  # an empty word: napoleon reads the words before a colon in the first line as a type
    in_example = False
    for i, line in enumerate(lines):
        in_example = (in_example and bool(line.strip())) or line.lstrip().startswith(">>>")
        if not in_example:
            spans = line.split("`")
            spans[::2] = [re.sub(r"[*|]|(?<=\w)_(?!\w)", r"\\\g<0>", span) for span in spans[::2]]
            lines[i] = "`".join(spans)


def without_arguments_of_protocols(
    app: Sphinx, what: str, name: str, obj: object, options: object, signature: str | None, returned: str | None
) -> tuple[str | None, str | None]:
    """Leave out the signature `(*args, **kwargs)` of protocols, which are not instantiated."""
    return (None if what == "class" and getattr(obj, "_is_protocol", False) else signature), returned


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    for name in lass.metrics.__all__:  # they are imported on first use, and Sphinx looks for them earlier
        getattr(lass.metrics, name)
    app.add_source_parser(Notebook)
    app.connect("source-read", read_page)
    app.connect("include-read", read_include)
    app.connect("autodoc-process-signature", without_arguments_of_protocols)
    app.connect("autodoc-process-docstring", escape, priority=400)  # before napoleon's sections
