"""Language models of transformers as priors, compared with their `generate` and their pass without a cache."""

from __future__ import annotations

import json
import sys

import pytest
import torch
import transformers
from toy_worlds import random_world

from lass import LassError, Separator, SparseCounts, separate_codes
from lass.artifacts import fingerprint, load_artifact
from lass.cli.main import main
from lass.codecs import ImageVQVAE
from lass.priors import HuggingFacePrior, Prior, load_prior, sample_codes
from lass.samplers import BeamSearch, TopK
from lass.tasks import PriorTraining

K, T, FIRST, START, CLASSES, VOCABULARY = 7, 6, 2, 1, 9, 13  # codes are the tokens 2…8, classes the tokens 9…11

#: Tolerance of log probabilities. They reach 30, where float32 rounds to 2e-6; over several layers, with and without a
#: cache, and across CPUs and BLAS libraries, the error grows to 1e-5. A wrong position, parent or class changes them by
#: more than 1e-2.
CLOSE = {"atol": 1e-4, "rtol": 0}

GPT2 = {"model_type": "gpt2", "n_positions": 8, "n_embd": 16, "n_layer": 2, "n_head": 2}
LLAMA = {
    "model_type": "llama",
    "max_position_embeddings": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
MISTRAL = {**LLAMA, "model_type": "mistral", "sliding_window": 3}  # its cache drops old positions
SPECIAL = {"vocab_size": VOCABULARY, "bos_token_id": START, "eos_token_id": None, "pad_token_id": 0}
CODES = {"num_codes": K, "num_positions": T, "first_token": FIRST}


def tiny(fields, **others):
    """Build a tiny model whose predictions are far from uniform, and give probability to tokens that are not codes."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(**fields, **SPECIAL, **others)
    model = transformers.AutoModelForCausalLM.from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return model


@pytest.fixture(params=[GPT2, LLAMA, MISTRAL], ids=lambda fields: fields["model_type"])
def prior(request):
    return HuggingFacePrior(tiny(request.param), **CODES)


@pytest.fixture
def conditional():
    return HuggingFacePrior(tiny(GPT2), **CODES, class_tokens=CLASSES, num_classes=3)


def random_codes(*shape, seed=0):
    return torch.randint(K, shape, generator=torch.Generator().manual_seed(seed))


def cached_log_prior(prior, codes, condition=None):
    state = prior.start(len(codes), condition)
    return torch.stack([prior.step(state, codes[:, s - 1] if s else None) for s in range(codes.shape[1])], 1)


@torch.no_grad()
def log_prior_of(model, codes, start=START):
    """Compute the log probabilities (B, T, K) without a cache, by a full pass for every position."""
    tokens = torch.cat([torch.full((len(codes), 1), start), codes + FIRST], 1)
    steps = [
        model(tokens[:, : s + 1], use_cache=False).logits[:, -1].float()[:, FIRST : FIRST + K].log_softmax(-1)
        for s in range(codes.shape[1])
    ]
    return torch.stack(steps, 1)


@pytest.mark.parametrize("how", [{"do_sample": False}, {"do_sample": True, "top_k": 0}], ids=["greedy", "sampling"])
def test_steps_give_the_probabilities_of_generate(prior, how):
    torch.manual_seed(1)
    output = prior.model.generate(
        torch.full((5, 1), START),
        max_new_tokens=T,
        suppress_tokens=[token for token in range(VOCABULARY) if not FIRST <= token < FIRST + K],
        output_scores=True,
        return_dict_in_generate=True,
        **how,
    )
    codes = output.sequences[:, 1:] - FIRST
    assert codes.shape == (5, T)
    scores = torch.stack(output.scores, 1)[..., FIRST : FIRST + K].log_softmax(-1)
    torch.testing.assert_close(cached_log_prior(prior, codes), scores, **CLOSE)
    if not how["do_sample"]:
        assert torch.equal(scores.argmax(-1), codes)


def test_cached_steps_equal_the_full_pass(prior, conditional):
    codes = random_codes(5, T)
    expected = log_prior_of(prior.model, codes)
    torch.testing.assert_close(cached_log_prior(prior, codes), expected, **CLOSE)
    torch.testing.assert_close(prior(codes).log_softmax(-1), expected, **CLOSE)
    labels = torch.tensor([0, 1, 2, 0, 1])
    for label in range(3):
        rows = labels == label
        expected = log_prior_of(conditional.model, codes, start=CLASSES + label)[rows]
        for given in (cached_log_prior(conditional, codes, labels), conditional(codes, labels).log_softmax(-1)):
            torch.testing.assert_close(given[rows], expected, **CLOSE)
    assert (
        cached_log_prior(conditional, codes, labels) - cached_log_prior(conditional, codes, 2 - labels)
    ).abs().max() > 0.1


@pytest.mark.parametrize("num_before", [0, 1, 4])
@pytest.mark.parametrize("parents", [[3, 3, 0, 1], [2], [0, 0, 1, 1, 2, 2, 3, 3], [0, 1], [0, 1, 2, 3]], ids=str)
def test_the_cache_follows_its_parents(prior, parents, num_before):
    """Reordering is tested after no step, one step, and more steps than the sliding window."""
    codes = random_codes(4, T)
    state = prior.start(4)
    for s in range(num_before):
        prior.step(state, codes[:, s - 1] if s else None)
    state = prior.select(state, torch.tensor(parents))
    continued = codes[parents]
    continued[:, max(0, num_before - 1) :] = random_codes(len(parents), T - max(0, num_before - 1), seed=3)
    expected = log_prior_of(prior.model, continued)
    for s in range(num_before, T):
        given = prior.step(state, continued[:, s - 1] if s else None)
        torch.testing.assert_close(given, expected[:, s], **CLOSE)


@pytest.mark.parametrize("seed", range(3))
def test_many_selections_equal_the_full_pass(prior, seed):
    generator = torch.Generator().manual_seed(seed)
    state, codes = prior.start(6), torch.zeros(6, 0, dtype=torch.long)
    for position in range(T):
        parents = torch.randint(len(codes), (int(torch.randint(1, 9, (), generator=generator)),), generator=generator)
        state, codes = prior.select(state, parents), codes[parents]
        given = prior.step(state, codes[:, -1] if position else None)
        codes = torch.cat([codes, torch.randint(K, (len(codes), 1), generator=generator)], 1)
        torch.testing.assert_close(given, log_prior_of(prior.model, codes)[:, -1], **CLOSE)


def test_classes_are_selected_too(conditional):
    state = conditional.select(conditional.start(3, torch.arange(3)), torch.tensor([2, 2, 0, 1]))
    expected = cached_log_prior(conditional, random_codes(4, 1), torch.tensor([2, 2, 0, 1]))
    torch.testing.assert_close(conditional.step(state, None), expected[:, 0], **CLOSE)


def test_one_model_with_and_without_the_class(conditional):
    either = HuggingFacePrior(conditional.model, **CODES, start_token=START, class_tokens=CLASSES, num_classes=3)
    codes = random_codes(2, T)
    torch.testing.assert_close(cached_log_prior(either, codes), log_prior_of(either.model, codes), **CLOSE)
    labels = torch.tensor([2, 0])
    given, expected = (cached_log_prior(one, codes, labels) for one in (either, conditional))
    torch.testing.assert_close(given, expected, **CLOSE)


@pytest.mark.parametrize("fields", [GPT2, LLAMA], ids=lambda fields: fields["model_type"])
def test_half_precision_gives_normalised_float32(fields, tmp_path):
    prior = HuggingFacePrior(tiny(fields, dtype="bfloat16"), **CODES)
    assert prior.model.dtype == torch.bfloat16
    codes = random_codes(3, T)
    given = cached_log_prior(prior, codes)
    assert given.dtype == torch.float32
    torch.testing.assert_close(given.exp().sum(-1), torch.ones(3, T), atol=1e-5, rtol=0)  # bfloat16: 1e-3
    torch.testing.assert_close(given, log_prior_of(prior.model, codes), atol=0.2, rtol=0)  # 8-bit logits, up to 30
    again = load_prior(prior.save_pretrained(tmp_path))
    assert again.model.dtype == torch.bfloat16
    assert fingerprint(again) == fingerprint(prior)
    torch.testing.assert_close(cached_log_prior(again, codes), given, atol=0.2, rtol=0)


def test_it_is_in_eval_mode_and_keeps_no_gradient():
    prior = HuggingFacePrior(tiny(GPT2, resid_pdrop=0.5).train(), **CODES)
    codes = random_codes(2, T)
    given = cached_log_prior(prior, codes)
    torch.testing.assert_close(given, cached_log_prior(prior, codes), **CLOSE)  # dropout is off
    assert not given.requires_grad
    assert isinstance(prior, Prior)


class WithoutCache:
    """Prior without a cache, which recomputes every step from the start token."""

    def __init__(self, model, num_codes=K):
        self.model, self.num_codes = model, num_codes

    def start(self, num_sequences, condition=None):
        start = torch.full((num_sequences,), START) if condition is None else CLASSES + condition
        return {"tokens": start[:, None]}

    def step(self, state, codes):
        if codes is not None:
            state["tokens"] = torch.cat([state["tokens"], FIRST + codes[:, None]], 1)
        logits = self.model(state["tokens"], use_cache=False).logits[:, -1]
        return logits[:, FIRST : FIRST + self.num_codes].log_softmax(-1)

    def select(self, state, parents):
        return {"tokens": state["tokens"][parents]}


@pytest.mark.parametrize("sampler", [TopK(20, k=4), BeamSearch(10)], ids=["top-k", "beams"])
@pytest.mark.parametrize("classes", [None, [[0, 2], [1, 1], [2, 0]]], ids=["unconditional", "conditional"])
def test_algorithm_1_gives_what_it_gives_without_a_cache(sampler, classes):
    prior = HuggingFacePrior(
        tiny(GPT2), **CODES, start_token=START, **({"class_tokens": CLASSES, "num_classes": 3} if classes else {})
    )
    likelihood = random_world(0, num_codes=K, zeros=True).likelihood
    options = {"conditions": None if classes is None else torch.tensor(classes), "seed": 3}
    given, expected = (
        separate_codes(random_codes(3, T), [one] * 2, likelihood, sampler, **options)
        for one in (prior, WithoutCache(prior.model))
    )
    assert torch.equal(given.codes, expected.codes)
    torch.testing.assert_close(given.scores, expected.scores, **CLOSE)
    assert given.scores.isfinite().any()


def test_two_priors_for_two_sources():
    priors = [HuggingFacePrior(tiny(fields), **CODES) for fields in (GPT2, LLAMA)]
    likelihood = random_world(1, num_codes=K).likelihood
    given, expected = (
        separate_codes(random_codes(2, T), models, likelihood, BeamSearch(8))
        for models in (priors, [WithoutCache(prior.model) for prior in priors])
    )
    assert torch.equal(given.codes, expected.codes)


def test_it_is_saved_with_its_separator(tmp_path):
    torch.manual_seed(0)
    codec = ImageVQVAE((1, 8, 8), num_codes=K, width=8)
    num_positions = 4
    model = tiny(GPT2)
    prior = HuggingFacePrior(model, K, num_positions, FIRST, class_tokens=CLASSES, num_classes=3)
    counts = SparseCounts(K)
    counts.add(*random_codes(3, 2000))
    separator = Separator(codec, prior, counts.likelihood(), TopK(8, k=4))
    again = Separator.from_pretrained(separator.save_pretrained(tmp_path))
    (restored,) = set(again.priors)
    assert restored.model.lm_head.weight is restored.model.transformer.wte.weight  # tied before and after
    assert model.lm_head.weight is model.transformer.wte.weight
    assert restored.config == prior.config
    mixture, classes = torch.rand(1, 8, 8), torch.tensor([0, 2])
    given, expected = again.separate(mixture, classes), separator.separate(mixture, classes)
    assert torch.equal(given.codes, expected.codes)
    torch.testing.assert_close(given.scores, expected.scores, **CLOSE)


def test_what_is_not_tied_stays_apart(tmp_path):
    prior = HuggingFacePrior(tiny(LLAMA), **CODES)
    prior.codec_fingerprint = "0123456789abcdef"
    again = load_prior(prior.save_pretrained(tmp_path))
    assert not torch.equal(again.model.lm_head.weight, again.model.model.embed_tokens.weight)
    torch.testing.assert_close(again(random_codes(2, T)), prior(random_codes(2, T)), **CLOSE)
    assert again.codec_fingerprint == "0123456789abcdef"


def test_a_saved_config_can_name_no_code(tmp_path, monkeypatch):
    """Names of attention kernels and model classes on the Hub are removed from an untrusted config."""
    prior = HuggingFacePrior(tiny(LLAMA), **CODES)
    file = prior.save_pretrained(tmp_path) / "config.json"
    facts = json.loads(file.read_text())
    named = {"attn_implementation": "stranger/kernel", "_attn_implementation_internal": "stranger/kernel"}
    facts["config"]["model"].update(named, auto_map={"AutoModelForCausalLM": "stranger/code--model.Model"})
    file.write_text(json.dumps(facts))
    again = load_artifact(tmp_path, "prior", verify=False)  # an attacker would store a correct fingerprint
    assert type(again.model) is type(prior.model)
    assert "/" not in again.model.config._attn_implementation
    assert not hasattr(again.model.config, "auto_map")


def test_models_in_the_format_of_transformers_are_read(tmp_path):
    model = tiny(GPT2)
    model.save_pretrained(tmp_path)
    prior = HuggingFacePrior.from_folder(tmp_path, **CODES)
    codes = random_codes(3, T)
    expected = cached_log_prior(HuggingFacePrior(model, **CODES), codes)
    torch.testing.assert_close(cached_log_prior(prior, codes), expected, **CLOSE)
    half = HuggingFacePrior.from_folder(tmp_path, dtype="bfloat16", **CODES)
    assert half.model.dtype == torch.bfloat16
    assert str(tmp_path) not in json.dumps(half.config)  # local paths are not saved


def test_a_folder_can_name_no_code_either(tmp_path):
    model = tiny(LLAMA)
    model.save_pretrained(tmp_path)
    fields = json.loads((tmp_path / "config.json").read_text())
    fields |= {"attn_implementation": "stranger/kernel", "auto_map": {"AutoModelForCausalLM": "stranger/code--model.M"}}
    (tmp_path / "config.json").write_text(json.dumps(fields))
    prior = HuggingFacePrior.from_folder(tmp_path, **CODES)
    assert type(prior.model) is type(model)
    assert "/" not in prior.model.config._attn_implementation


def test_the_cache_takes_what_was_foreseen(prior):
    """`bytes_for` counts the keys and values of all layers, and one layer twice for its replacement."""
    state, codes = prior.start(5), random_codes(5, T)
    for s in range(T):
        prior.step(state, codes[:, s - 1] if s else None)
    layers = [layer.keys.nbytes + layer.values.nbytes for layer in state.past.layers]
    foreseen = prior.bytes_for(5, T)
    assert sum(layers) + max(layers) <= foreseen
    if not getattr(prior.model.config, "sliding_window", None):  # drops old positions
        assert foreseen == sum(layers) + max(layers)


def test_a_model_without_attention_says_nothing_of_its_memory_and_is_refused_or_right():
    """Newer versions of transformers give some of these models a cache that can be reordered."""
    fields = {"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
    prior = HuggingFacePrior(tiny(fields), **CODES)
    assert prior.bytes_for(5, T) == 0
    state, codes, parents = prior.start(3), random_codes(3, 2), torch.tensor([2, 0, 0])
    try:
        prior.step(state, None)
    except LassError as error:
        if "keeps no key/value cache" not in str(error):
            raise
        return
    state = prior.select(state, parents)
    found = prior.step(state, codes[:, 0])
    torch.testing.assert_close(found, log_prior_of(prior.model, codes)[:, 1], **CLOSE)


def test_models_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(LassError, match=r"no causal language model of transformers at .*empty"):
        HuggingFacePrior.from_folder(tmp_path / "empty", **CODES)
    transformers.AutoModel.from_config(tiny(LLAMA).config).save_pretrained(tmp_path / "headless")
    with pytest.raises(LassError, match=r"headless lacks weights: \['lm_head.weight'\]"):
        HuggingFacePrior.from_folder(tmp_path / "headless", **CODES)


def test_mistakes_are_told_in_one_sentence(prior, conditional):
    with pytest.raises(LassError, match="no condition; got one"):
        prior.start(2, torch.tensor([0, 1]))
    with pytest.raises(LassError, match=r"a class in 0…2 for each sequence; got none"):
        conditional.start(2)
    with pytest.raises(LassError, match=r"0…2; got 0…3"):
        conditional.start(2, torch.tensor([0, 3]))
    state = prior.start(1)
    for s in range(T):
        prior.step(state, torch.tensor([0]) if s else None)
    with pytest.raises(LassError, match=f"sequences of {T} codes"):
        prior.step(state, torch.tensor([0]))
    model = prior.model
    assert HuggingFacePrior(model, K).num_positions == 8
    with pytest.raises(LassError, match="has 8 positions, but sequences of 9 codes"):
        HuggingFacePrior(model, K, num_positions=9)
    with pytest.raises(LassError, match=r"tokens 0…12, but its codes would be 7…13"):
        HuggingFacePrior(model, K, first_token=7)
    with pytest.raises(LassError, match=r"tokens 0…12, but its start token would be 13"):
        HuggingFacePrior(model, K, start_token=13)
    with pytest.raises(LassError, match=r"tokens 0…12, but its classes would be 9…13"):
        HuggingFacePrior(model, K, class_tokens=9, num_classes=5)
    with pytest.raises(LassError, match="both class_tokens and num_classes"):
        HuggingFacePrior(model, K, class_tokens=9)
    model.config.bos_token_id = None
    with pytest.raises(LassError, match="no bos_token_id: give the start_token"):
        HuggingFacePrior(model, K)
    with pytest.raises(LassError, match="must say its model_type"):
        HuggingFacePrior({"n_layer": 2}, K)
    with pytest.raises(LassError, match="no causal language model of this vit config"):
        HuggingFacePrior({"model_type": "vit"}, K)
    with pytest.raises(LassError, match="no causal language model of this nothing config"):
        HuggingFacePrior({"model_type": "nothing"}, K)


def test_what_has_no_cache_or_cannot_be_rebuilt_is_refused(tmp_path):
    class Changed(transformers.GPT2LMHeadModel):
        def forward(self, **inputs):
            output = super().forward(**inputs)
            output.past_key_values = None
            return output

    prior = HuggingFacePrior(Changed(tiny(GPT2).config), **CODES)
    with pytest.raises(LassError, match="This Changed keeps no key/value cache"):
        prior.step(prior.start(1), None)
    with pytest.raises(LassError, match="A Changed cannot be saved"):
        prior.save_pretrained(tmp_path)


def test_it_can_learn_a_rule():
    """The data counts upwards from a random start, so the first code is random and all others are determined."""
    torch.manual_seed(0)
    codes = (torch.arange(K)[:, None] + torch.arange(T)) % K
    sizes = {**GPT2, "n_embd": 32, "n_layer": 1, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    prior = HuggingFacePrior({**sizes, **SPECIAL}, **CODES)
    optimizer = torch.optim.Adam(prior.parameters(), 1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(prior(codes).flatten(0, 1), codes.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() == pytest.approx(torch.log(torch.tensor(float(K))).item() / T, abs=0.02)
    samples = sample_codes(prior.eval(), 20, T, generator=torch.Generator().manual_seed(0))
    assert torch.equal(samples.diff(dim=1) % K, torch.ones(20, T - 1, dtype=torch.long))


@pytest.mark.parametrize("pretrained", [False, True], ids=["new", "pretrained"])
def test_the_training_stage_takes_one_from_its_yaml(pretrained, repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    codec = ImageVQVAE((1, 16, 16), num_codes=K, width=8)
    codec.save_pretrained("runs/digits/vqvae/codec")
    if pretrained:
        tiny({**GPT2, "n_positions": 16}).save_pretrained("language_model")
        prior = {"class_path": "lass.priors.HuggingFacePrior.from_folder", "init_args": {"folder": "language_model"}}
    else:
        fields = {**GPT2, **SPECIAL, "n_positions": 16}
        prior = {"class_path": "lass.priors.HuggingFacePrior", "init_args": {"model": fields}}
    prior["init_args"].update(num_codes=K, num_positions=16, first_token=FIRST)
    config = {"model": {"class_path": "lass.tasks.PriorTraining", "init_args": {"prior": prior}}}
    (tmp_path / "language_model.yaml").write_text(json.dumps(config))  # JSON is YAML
    main(
        [
            *("fit", "-c", str(repository / "experiments/digits/prior.yaml"), "-c", "language_model.yaml"),
            *("--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1", "--trainer.limit_train_batches=2"),
            *("--trainer.logger=false", "--trainer.enable_progress_bar=false", "--model.init_args.warmup_steps=1"),
        ]
    )
    trained = load_prior("runs/digits/prior/prior")
    assert isinstance(trained, HuggingFacePrior)
    assert trained.codec_fingerprint == fingerprint(codec)
    assert trained(random_codes(2, 16)).isfinite().all()


def test_a_loaded_model_is_trained_with_its_dropout(tmp_path):
    tiny(GPT2).save_pretrained(tmp_path)
    prior = HuggingFacePrior.from_folder(tmp_path, **CODES)
    codes = random_codes(4, T)
    torch.testing.assert_close(prior(codes), prior(codes), **CLOSE)
    task = PriorTraining(prior)
    assert (task.artifact(codes) - task.artifact(codes)).abs().max() > 0.01


def test_without_transformers_only_its_use_fails(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    for use in (lambda: HuggingFacePrior(GPT2, K), lambda: HuggingFacePrior.from_folder("anything", K)):
        with pytest.raises(LassError, match="HuggingFacePrior needs transformers: pip install"):
            use()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_gives_the_same(prior):
    codes = random_codes(4, T)
    expected = cached_log_prior(prior, codes)
    given = cached_log_prior(prior.to("cuda"), codes.to("cuda"))
    torch.testing.assert_close(given.cpu(), expected, atol=1e-4, rtol=1e-4)
