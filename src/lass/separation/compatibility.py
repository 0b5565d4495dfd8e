"""Checks that the parts of a separator belong together."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from lass.artifacts import MadeForCodec, fingerprint
from lass.codecs import Codec, GridCodec, LatentCodec
from lass.errors import LassError
from lass.likelihood import AdditiveLikelihood, ChainLikelihood, Likelihood, needs_latents
from lass.priors import BoundedPrior, Prior, reading_order


def check_num_sources(num_sources: int, likelihood: Likelihood) -> None:
    """Raise LassError unless the likelihood serves this number of sources."""
    if isinstance(likelihood, AdditiveLikelihood):  # for any number
        return
    served = likelihood.num_sources if isinstance(likelihood, ChainLikelihood) else 2
    if num_sources != served:
        raise LassError(
            f"This {type(likelihood).__name__} is for {served} sources, so for {served} priors (or one prior for all), "
            f"got {num_sources}: an AdditiveLikelihood serves any number."
        )


def check_parts(codec: Codec, priors: Sequence[Prior], likelihood: Likelihood) -> None:
    """Raise LassError unless priors and likelihood were made for the codec, which gives the latents they need, and the
    likelihood serves the number of priors.
    """
    check_num_sources(len(priors), likelihood)
    codec_fingerprint = fingerprint(codec) if isinstance(codec, nn.Module) else None
    parts: list[tuple[str, Prior | Likelihood]] = [*(("prior", prior) for prior in priors), ("likelihood", likelihood)]
    for name, part in parts:
        if part.num_codes != codec.num_codes:
            raise LassError(
                f"The codec has {codec.num_codes} codes, but the {name} was made for {part.num_codes}: "
                f"make the {name} again with this codec."
            )
        made_for = part.codec_fingerprint if isinstance(part, MadeForCodec) else None
        if made_for and codec_fingerprint and made_for != codec_fingerprint:
            raise LassError(
                f"The {name} was made for the codec {made_for}, but this codec is {codec_fingerprint}: "
                f"make the {name} again, or name the codec it was made with."
            )
    if isinstance(codec, GridCodec):
        for prior in priors:
            if isinstance(prior, BoundedPrior) and prior.num_positions != math.prod(codec.grid):
                raise LassError(
                    f"The codec gives {math.prod(codec.grid)} codes for a signal, but the prior was made for "
                    f"{prior.num_positions}: make the prior again with this codec."
                )
    orders = {reading_order(prior) for prior in priors}
    if len(orders) > 1 or (orders != {None} and not isinstance(codec, GridCodec)):
        raise LassError(
            "The priors read the codes of a grid in an order of their own: use two of the same order, with a codec "
            "for images."
        )
    if needs_latents(likelihood) and not isinstance(codec, LatentCodec):
        raise LassError(
            f"This likelihood needs latents, but the codec, a {type(codec).__name__}, has no encode_latents: add "
            "it, or use a likelihood of counts."
        )
