"""The folder of a separator: separator.json, codec/, prior/ (or prior_0/, prior_1/) and likelihood.safetensors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lass.artifacts import FORMAT, Savable, build, fingerprint, read_json, write_json
from lass.codecs import Codec, load_codec
from lass.errors import LassError, check_flag, check_number, path_component
from lass.likelihood import Likelihood, SavableLikelihood, load_likelihood
from lass.priors import Prior, load_prior
from lass.samplers import Sampler
from lass.separation.refinement import Refinement
from lass.separation.selection import Selection

CONFIG_FILE, LIKELIHOOD_FILE = "separator.json", "likelihood.safetensors"
MAX_SOURCES = 64  # that a folder may name
COMPONENTS: dict[str, type] = {"sampler": Sampler, "selection": Selection, "refinement": Refinement}


def save_parts(
    folder: Path, codec: Codec, priors: Sequence[Prior], likelihood: Likelihood, facts: dict[str, Any]
) -> Path:
    """Write a separator into a folder and return the folder.

    Args:
        folder: Folder that is created or whose files are replaced.
        codec: Codec with `save_pretrained`.
        priors: Priors with `save_pretrained`; one that several sources share is written once.
        likelihood: Likelihood with `save`.
        facts: Source names and settings, as JSON-serialisable values.

    Raises:
        LassError: if a part has no such method; nothing is written then.
    """
    first = [next(i for i, prior in enumerate(priors) if prior is each) for each in priors]
    names = [f"prior_{i}" if any(first) else "prior" for i in first]
    if not isinstance(likelihood, SavableLikelihood):
        raise _cannot_save("likelihood", likelihood, "save")
    folders: dict[str, Savable] = {}
    for name, part in [("codec", codec), *zip(names, priors, strict=True)]:
        if not isinstance(part, Savable):
            raise _cannot_save(name.partition("_")[0], part, "save_pretrained")
        folders[name] = part
    for name, savable in folders.items():
        savable.save_pretrained(folder / name)
    likelihood.save(folder / LIKELIHOOD_FILE)
    write_json(folder / CONFIG_FILE, {"format": FORMAT, "priors": names, **facts})
    return folder


def load_parts(folder: Path) -> dict[str, Any]:
    """Read a folder of `save_parts` as the arguments of `Separator`.

    No code in the folder is executed, and no name in it is used as a path unchecked.

    Raises:
        LassError: if a file is missing or damaged.
    """
    source = folder / CONFIG_FILE
    facts = read_json(source, "separator")
    if facts.get("format") != FORMAT:
        raise LassError(f"{source} is no separator in format {FORMAT} of lass: save it again with this version.")
    for name in ("priors", "likelihood_weight", "posterior_mean", *COMPONENTS):
        if name not in facts:
            raise LassError(f"{source} lacks {name!r}: save the separator again with this version.")
    names, source_names = facts["priors"], facts.get("source_names")
    if not isinstance(names, list) or not 0 < len(names) <= MAX_SOURCES:
        raise LassError(f"{source} names no priors: expected a list of 1 to {MAX_SOURCES} folders.")
    if source_names is not None and not isinstance(source_names, list):
        raise LassError(f"{source} holds the source_names {source_names!r:.80}: expected a list.")
    check_flag(f"posterior_mean in {source}", facts["posterior_mean"])
    check_number(f"likelihood_weight in {source}", facts["likelihood_weight"], at_least=0)
    weights = facts.get("mixing_weights")
    if weights is not None and not (isinstance(weights, list) and all(isinstance(x, int | float) for x in weights)):
        raise LassError(f"{source} holds the mixing_weights {weights!r:.80}: expected a list of numbers.")
    priors = {name: load_prior(folder / name) for name in {path_component(name, source) for name in names}}
    return {
        "codec": load_codec(folder / "codec"),
        "priors": [priors[name] for name in names],
        "likelihood": load_likelihood(folder / LIKELIHOOD_FILE),
        "likelihood_weight": facts["likelihood_weight"],
        "posterior_mean": facts["posterior_mean"],
        "source_names": source_names,
        "mixing_weights": weights,
        **{name: build(facts[name], source, protocol) for name, protocol in COMPONENTS.items()},
    }


def fingerprints_of(codec: Codec, priors: Sequence[Prior], likelihood: SavableLikelihood) -> dict[str, str]:
    """Fingerprints of the codec, of the prior of each source and of the likelihood, by name."""
    parts: dict[str, Any] = {"codec": codec, "likelihood": likelihood.state_dict()}
    parts |= {f"prior_{source + 1}": prior for source, prior in enumerate(priors)}
    known: dict[int, str] = {}  # a prior shared by several sources is hashed once, as it may be large
    for part in parts.values():
        known[id(part)] = known.get(id(part)) or fingerprint(part)
    return {name: known[id(part)] for name, part in parts.items()}


def _cannot_save(name: str, part: object, method: str) -> LassError:
    return LassError(f"This {name}, a {type(part).__name__}, cannot be saved: it has no method {method}.")
