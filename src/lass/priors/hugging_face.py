"""Prior from a causal language model of Hugging Face's transformers, some of whose tokens are codes."""

# B sequences, T code positions, K num_codes, V tokens of the model's vocabulary

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from torch import Tensor, nn

from lass.artifacts import Artifact, register
from lass.errors import LassError, check_sizes


@dataclass
class HuggingFaceState:
    """State of a batch of sequences during sampling."""

    start: Tensor  # (B,), token before the first code
    past: Any = None  # Cache of transformers; None before the first step
    length: int = 0  # number of positions in `past`


@register
class HuggingFacePrior(Artifact):
    """Prior given by a causal language model of transformers, in which code k is the token `first_token` + k.

    The input of the model is a start token followed by the codes. The logits of the codes are kept and normalised, so
    the probability of all other tokens is redistributed to the codes in proportion.

    Args:
        model: Causal language model, which is set to eval mode; or the fields of its config as a dictionary with
            `model_type`, for a new model with random weights (transformers selects the attention implementation).
        num_codes: Size K of the codec's codebook.
        num_positions: Length T of a code sequence, the product of the codec's grid; default the model's maximum.
        first_token: Token of code 0.
        start_token: Token at the first position; default the `bos_token_id` of the model's config. With classes the
            default is none, and every sequence then needs a class.
        class_tokens: Token of class 0, for a class-conditional model; a sequence of class c starts with the token
            `class_tokens` + c.
        num_classes: Number of classes; 0 for an unconditional model.

    Raises:
        LassError: if the model has no such tokens or positions, or transformers is not installed.

    Example:
        >>> gpt2 = {"model_type": "gpt2", "vocab_size": 17, "n_positions": 9, "n_embd": 8, "n_layer": 1, "n_head": 2}
        >>> prior = HuggingFacePrior(gpt2, num_codes=16, start_token=16)
        >>> prior.step(prior.start(3), None).shape
        torch.Size([3, 16])

    Source: Wolf et al. 2020 (arXiv:1910.03771) for the models; own design, because Algorithm 1 must be able to select
    sequences at every position.
    """

    kind = "prior"
    model: Any  # a PreTrainedModel of transformers

    def __init__(
        self,
        model: dict[str, Any] | nn.Module,
        num_codes: int,
        num_positions: int | None = None,
        first_token: int = 0,
        start_token: int | None = None,
        class_tokens: int | None = None,
        num_classes: int = 0,
    ) -> None:
        super().__init__()
        if isinstance(model, nn.Module):
            self.model = model
            self.eval()
        else:
            self.model = _new_model(model)
        config = self.model.config.get_text_config()
        most = getattr(config, "max_position_embeddings", None)
        num_positions = num_positions or most
        name = type(self.model).__name__
        if num_positions is None:
            raise LassError(f"This {name} does not say how many positions it has: give num_positions.")
        if most is not None and num_positions > most:
            raise LassError(f"This {name} has {most} positions, but sequences of {num_positions} codes were requested.")
        if (class_tokens is None) != (num_classes == 0):
            raise LassError(
                "A class-conditional model needs both class_tokens and num_classes, any other one neither: got "
                f"{class_tokens} and {num_classes}."
            )
        if start_token is None and class_tokens is None:
            start_token = config.bos_token_id
            if start_token is None:
                raise LassError(f"This {name} has no bos_token_id: give the start_token that comes before the codes.")
        for what, first, number in [
            ("codes", first_token, num_codes),
            ("start token", start_token, 1),
            ("classes", class_tokens, num_classes),
        ]:
            if first is not None and (first < 0 or first + number > config.vocab_size):
                raise LassError(
                    f"This {name} has the tokens 0…{config.vocab_size - 1}, but its {what} would be "
                    f"{first}…{first + number - 1}."
                )
        self.num_codes, self.num_positions, self.num_classes = num_codes, num_positions, num_classes
        self.first_token, self.start_token, self.class_tokens = first_token, start_token, class_tokens

    @classmethod
    def from_folder(
        cls,
        folder: str | Path,
        num_codes: int,
        num_positions: int | None = None,
        first_token: int = 0,
        start_token: int | None = None,
        class_tokens: int | None = None,
        num_classes: int = 0,
        dtype: str = "auto",
    ) -> HuggingFacePrior:
        """Load a model in the format of transformers as a prior; use `load_prior` for a prior saved by LASS.

        Args:
            folder: Folder written by the model's `save_pretrained`, or its name on the Hub. Code in it is never run.
            num_codes, num_positions, first_token, start_token, class_tokens, num_classes: See HuggingFacePrior.
            dtype: Data type of the weights, such as "bfloat16"; default that of the file.

        Raises:
            LassError: as in HuggingFacePrior, or if the folder has no complete causal language model.
        """
        transformers = _transformers()
        try:
            found = transformers.AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
            config = transformers.AutoConfig.for_model(
                **_without_code(json.loads(found.to_json_string(use_diff=False)))
            )
            model, report = transformers.AutoModelForCausalLM.from_pretrained(
                str(folder), config=config, dtype=dtype, trust_remote_code=False, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            raise LassError(
                f"There is no causal language model of transformers at {folder}: {_short(error)}"
            ) from error
        if report["missing_keys"]:  # transformers only warns and initialises them randomly
            raise LassError(f"The model at {folder} lacks weights: {_short(sorted(report['missing_keys']))}.")
        return cls(model, num_codes, num_positions, first_token, start_token, class_tokens, num_classes)

    @property
    def config(self) -> dict[str, Any]:  # type: ignore[override] # computed, because the model may change
        """Arguments of the constructor, with the model replaced by the fields of its config."""
        # Derived from the model, because its data type may have changed and transformers adds defaults.
        fields = json.loads(self.model.config.to_json_string(use_diff=False))
        return {
            "model": _without_code({**fields, "dtype": str(self.model.dtype).removeprefix("torch.")}),
            "num_codes": self.num_codes,
            "num_positions": self.num_positions,
            "first_token": self.first_token,
            "start_token": self.start_token,
            "class_tokens": self.class_tokens,
            "num_classes": self.num_classes,
        }

    def save_pretrained(self, folder: str | Path) -> Path:
        """See `Artifact`.

        Raises:
            LassError: if the model cannot be rebuilt from its config alone, for example because it is wrapped.
        """
        own = _transformers().MODEL_FOR_CAUSAL_LM_MAPPING.get(type(self.model.config), None)
        if type(self.model) is not own:
            raise LassError(
                f"A {type(self.model).__name__} cannot be saved: only what AutoModelForCausalLM of transformers makes "
                "of a config can be built again from that config."
            )
        return super().save_pretrained(folder)

    def forward(
        self, codes: Int[Tensor, "batch time"], condition: Int[Tensor, " batch"] | None = None
    ) -> Float[Tensor, "batch time num_codes"]:
        """Compute the logits of every code given the codes before it, in one pass, for training.

        Args:
            codes: Sequences of codes, whole or truncated.
            condition: Class of each sequence; only for a class-conditional prior.
        """
        start = self._start_tokens(len(codes), condition)
        tokens = torch.cat([start[:, None], self.first_token + codes[:, :-1]], 1)
        return self._of_codes(self.model(input_ids=tokens, use_cache=False).logits)

    def start(self, num_sequences: int, condition: Int[Tensor, " sequences"] | None = None) -> HuggingFaceState:
        """Return the state of `num_sequences` empty sequences; see `Prior`."""
        return HuggingFaceState(self._start_tokens(num_sequences, condition))

    @torch.no_grad()
    def step(
        self, state: HuggingFaceState, codes: Int[Tensor, " sequences"] | None
    ) -> Float[Tensor, "sequences num_codes"]:
        """Append a position and return log p(next code | past) in float32, for any data type of the model; see `Prior`.

        Raises:
            LassError: if the sequences already have `num_positions` codes, or the model has no key/value cache.
        """
        if state.length == self.num_positions:
            raise LassError(f"This prior is for sequences of {self.num_positions} codes; a longer one was requested.")
        tokens = state.start if codes is None else self.first_token + codes
        output = self.model(input_ids=tokens[:, None], past_key_values=state.past, use_cache=True)
        state.past, state.length = getattr(output, "past_key_values", None), state.length + 1
        layers = getattr(state.past, "layers", [None])
        if not all(hasattr(layer, "keys") and not hasattr(layer, "conv_states") for layer in layers):  # recurrent ones
            raise LassError(
                f"This {type(self.model).__name__} keeps no key/value cache in which sequences could be selected."
            )
        return self._of_codes(output.logits[:, -1]).log_softmax(-1)

    def select(self, state: HuggingFaceState, parents: Int[Tensor, " new_sequences"]) -> HuggingFaceState:
        """Reorder, drop or duplicate sequences in place; the cache is copied unless nothing changes. See `Prior`."""
        stay = torch.arange(len(state.start), device=parents.device)
        if torch.equal(parents, stay):
            return state
        state.start = state.start[parents]
        if state.past is not None:
            state.past.reorder_cache(parents)
        return state

    def bytes_for(self, num_sequences: int, num_positions: int) -> int:
        """Return an upper bound on the memory of the keys and values in bytes; see `Prior`.

        One layer is counted twice, because `select` replaces the entries of one layer at a time by a copy. The result
        is 0 for a model whose config has no number of attention heads.
        """
        config = self.model.config.get_text_config()
        num_queries = getattr(config, "num_attention_heads", None)
        if num_queries is None:
            return 0
        num_heads = getattr(config, "num_key_value_heads", None) or num_queries
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // num_queries
        entry = 2 * num_heads * head_dim * self.model.dtype.itemsize
        return (config.num_hidden_layers + 1) * entry * num_sequences * num_positions

    def _of_codes(self, logits: Float[Tensor, "... V"]) -> Float[Tensor, "... K"]:
        return logits[..., self.first_token : self.first_token + self.num_codes].float()

    def _start_tokens(self, num_sequences: int, condition: Tensor | None) -> Int[Tensor, " B"]:
        if condition is None:
            if self.start_token is None:
                raise LassError(f"This prior takes a class in 0…{self.num_classes - 1} for each sequence; got none.")
            return torch.full((num_sequences,), self.start_token, device=self.model.device)
        if self.class_tokens is None:
            raise LassError("This prior takes no condition; got one.")
        if condition.numel() and not 0 <= int(condition.min()) <= int(condition.max()) < self.num_classes:
            raise LassError(
                f"Classes must be in 0…{self.num_classes - 1}; got {int(condition.min())}…{int(condition.max())}."
            )
        return self.class_tokens + condition


def _transformers() -> ModuleType:
    """Import transformers on demand, because it is optional and its import takes seconds."""
    try:
        import transformers
    except ImportError as error:
        raise LassError('HuggingFacePrior needs transformers: pip install "transformers>=4.56,<6".') from error
    return transformers


def _new_model(fields: dict[str, Any]) -> nn.Module:
    """Build a model with random weights from the fields of its config; only classes of transformers are allowed."""
    if "model_type" not in fields:
        raise LassError("The config of a language model must say its model_type, such as gpt2; got none.")
    transformers = _transformers()
    try:
        config = transformers.AutoConfig.for_model(**_without_code(fields))
        check_sizes(2**10, num_hidden_layers=getattr(config.get_text_config(), "num_hidden_layers", 1))
        return transformers.AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except ValueError as error:
        raise LassError(
            f"transformers makes no causal language model of this {fields['model_type']} config: {_short(error)}"
        ) from error


def _without_code(fields: Any) -> Any:
    """Remove the fields of a config that can name code to download (attention kernels), and private ones (paths)."""
    if isinstance(fields, list):
        return [_without_code(value) for value in fields]
    if not isinstance(fields, dict):
        return fields
    named_code = ("attn_implementation", "experts_implementation", "auto_map")
    return {
        key: _without_code(value)
        for key, value in fields.items()
        if not str(key).startswith("_") and key not in named_code
    }


def _short(reason: object) -> str:
    return textwrap.shorten(str(reason), 200, placeholder=" …")
