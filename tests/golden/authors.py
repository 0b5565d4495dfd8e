"""Makes authors.safetensors: what the authors' own code gives for small models.

    python tests/golden/authors.py FOLDER

FOLDER is a clone of https://github.com/gladia-research-group/latent-autoregressive-source-separation, in an environment
with torch, transformers and sparse. Modules that its code imports but that are not needed here are left empty, and so
is the move to a GPU. Weights, images, sequences and sums follow formulas, so that the file need not hold them.
"""

import importlib.util
import json
import math
import sys
import types
import zlib
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

WIDTH, CODES, POSITIONS = 16, 32, 49
CANDIDATES, K = 3, 8  # of top-k sampling
STEPS = 150  # of refinement, with one halving of the step size
AUDIO = {"input_shape": (32,), "bins": 20, "width": 16, "depth": 5, "heads": 2, "blocks": 4, "m_attn": 0.5, "m_mlp": 2}
ORDERS = (0, 2, 9)  # of attention; 9 has all patterns
WEIGHT = 3.0  # of the likelihood of audio
MARGIN = 1e-4  # of the choice of codes, relative to the largest score; the rounding of float32 is far below


def uniform(name: str, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1): digits of a sine that look random."""
    index = torch.arange(math.prod(shape), dtype=torch.float64)
    digits = (12.9898 * index + zlib.crc32(name.encode()) % 1000).sin() * 43758.5453
    return (digits - digits.floor()).view(shape).float()


def formula(name: str, shape: tuple[int, ...]) -> Tensor:
    """The weights called `name`, as large as layers need to keep a signal's size."""
    values = 2 * uniform(name, shape) - 1
    if name.endswith("num_batches_tracked"):
        return torch.zeros(shape, dtype=torch.long)
    if name.endswith("running_var"):
        return 1 + 0.5 * values
    if len(shape) == 1:
        return 0.3 * values + (1.0 if name.endswith("weight") else 0.0)  # of a norm, else a bias
    if any(part in name for part in ("wte", "wpe", "emb", "start_token")):
        return values * (0.3 if "wte" in name or "x_emb" in name else 1.0)  # these also make the logits
    return values * (2 / math.sqrt(shape[0] if name.endswith(("c_attn.weight", ".w")) else math.prod(shape[1:])))


def state(shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """The weights of a model; tied ones have one name."""
    tied = {"lm_head.weight": "transformer.wte.weight", "x_out.weight": "x_emb.weight"}
    return {name: formula(tied.get(name, name), tuple(shape)) for name, shape in shapes.items()}


def integers(name: str, number: int, below: int) -> Tensor:
    """`number` integers in 0…`below` − 1."""
    return (uniform(name, (number,)) * below).long()


def triples(num_codes: int, number: int = 4000) -> Tensor:
    """Codes of sources and mixture, (3, number), some of them repeated and some mixture codes rarer than others."""
    codes = torch.stack([integers(f"code {i}", number, num_codes) for i in range(3)])
    codes[0] = codes[0] * codes[1] // num_codes
    return codes


def dense_sums(num_codes: int) -> Tensor:
    """Sums of images: counts of triples, (K, K, K)."""
    sums = torch.zeros(num_codes, num_codes, num_codes)
    return sums.index_put_(tuple(triples(num_codes)), torch.tensor(1.0), accumulate=True)


def margin(vectors: Tensor, codebook: Tensor) -> float:
    """By how much the score of the chosen code exceeds the second largest, where that is least; relative to all."""
    scores = vectors.double() @ codebook.double().T - codebook.double().square().sum(1) / 2
    largest = scores.topk(2, dim=1).values
    return ((largest[:, 0] - largest[:, 1]).min() / scores.abs().max()).item()


def load(path: Path) -> types.ModuleType:
    """Module of a file, under a name that no package has."""
    spec = importlib.util.spec_from_file_location(f"authors_{path.parts[-3]}_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def describe(model: torch.nn.Module) -> dict[str, list[int]]:
    """Fill a model with the formula and return the names and shapes of its weights."""
    shapes = {name: list(tensor.shape) for name, tensor in model.state_dict().items()}
    model.load_state_dict(state(shapes))
    model.eval()
    return shapes


def gpt2(vocab_size: int, width: int) -> torch.nn.Module:
    """The prior of configs/autoregressive/mnist_256.yaml, for other sizes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"vocab_size": vocab_size, "n_positions": POSITIONS, "n_embd": width, "n_layer": 3, "n_head": 2}
    return GPT2LMHeadModel(GPT2Config(**sizes, use_cache=False, bos_token_id=0, eos_token_id=511))


def images(folder: Path, golden: dict[str, Tensor], shapes: dict[str, dict]) -> None:
    """Values of lass_mnist: VQ-VAE, prior, likelihood, top-k sampling and refinement."""
    import diba.diba
    from modules import VectorQuantizedVAE

    interfaces, utils = load(folder / "lass/diba_interaces.py"), load(folder / "lass/utils.py")
    vqvae = VectorQuantizedVAE(1, WIDTH, CODES)
    shapes["vqvae"] = describe(vqvae)
    for seed in range(1000):  # until no position is near a tie between two codes
        signal = uniform(f"signal {seed}", (3, 1, 28, 28))
        vectors = vqvae.encoder(signal).movedim(1, -1).flatten(0, 2)
        codebook = vectors[torch.linspace(0, len(vectors) - 1, CODES).long()]
        if (decided := margin(vectors, codebook)) > MARGIN:
            break
    vqvae.codeBook.embedding.weight.copy_(codebook)
    codes = vqvae.encode(signal)
    golden |= {"seed": torch.tensor(seed), "codebook": codebook, "codes": codes.int()}
    golden["decoded"] = vqvae.decode(codes[:2])
    print(f"{codes.unique().numel()} codes, decided by {decided:.1e}")

    model = gpt2(CODES, WIDTH)
    shapes["prior"] = describe(model)
    prior = interfaces.UnconditionedTransformerPrior(model, sos=0)
    sequences = integers("sequences", 2 * POSITIONS, CODES).view(2, POSITIONS)
    tokens, past, log_prior = prior.get_sos().expand(2)[:, None], None, []
    for position in range(POSITIONS):
        logits, past = prior._get_logits(tokens, past)
        log_prior.append(diba.diba.normalize_logits(logits))
        tokens = torch.cat([tokens, sequences[:, position, None]], 1)
    golden["log_prior"] = torch.stack(log_prior, 1)

    likelihood = interfaces.DenseLikelihood(dense_sums(CODES))
    pairs, log_likelihood = likelihood.get_log_likelihood(5)
    golden |= {"pairs": pairs.int(), "log_likelihood": log_likelihood}
    golden["num_pairs"] = torch.tensor([len(likelihood.get_log_likelihood(code)[1]) for code in range(CODES)])

    posteriors, compute = [], diba.diba._compute_log_posterior
    diba.diba._compute_log_posterior = lambda *terms: posteriors.append(compute(*terms)) or posteriors[-1]
    mixture_codes = integers("mixture", POSITIONS, CODES).tolist()
    torch.manual_seed(0)
    separated = diba.fast_sampled_separation([prior, prior], likelihood, mixture_codes, CANDIDATES, 1.0, K)
    golden["separated"] = torch.stack(separated, 1).int()  # (N, 2, T)
    golden["top"] = torch.stack([posterior.topk(K).values for posterior in posteriors])  # (T, N, k)
    scores = torch.zeros(CANDIDATES)
    for position, (code, posterior) in enumerate(zip(mixture_codes, posteriors, strict=True)):
        pairs, _ = likelihood.get_log_likelihood(code)
        chosen = golden["separated"][:, :, position]
        scores += posterior[(pairs[None] == chosen[:, :, None]).all(1)]
    golden["scores"] = scores

    latents = [vqvae.codes_to_latents(codes[i : i + 1]) for i in (0, 1)]
    with torch.enable_grad():
        refined = utils.refine_latents(vqvae, *latents, signal[2:3], n_iterations=STEPS, learning_rate=0.1)
    golden["refined"] = torch.cat(refined)
    shapes["published vqvae"] = describe(VectorQuantizedVAE(1, 128, 256))
    shapes["published prior"] = describe(gpt2(256, 128))


def audio(folder: Path, golden: dict[str, Tensor], shapes: dict[str, dict]) -> None:
    """Values of lass_audio: prior and likelihood."""
    import sparse

    torch.Tensor.cuda = lambda tensor: tensor
    torch.cuda.LongTensor = torch.LongTensor
    interfaces = load(folder / "lass/diba_interfaces.py")
    sequences = integers("sequences", 2 * 32, 20).view(2, 32)
    for order in ORDERS:
        prior = interfaces.ConditionalAutoregressive2D(**AUDIO, attn_order=order)
        shapes[f"audio {order}"] = describe(prior)
        _, logits = prior(sequences, get_preds=True)
        golden[f"audio.log_prior.{order}"] = logits.log_softmax(-1)
    # The loop of the authors' separation, which has half precision. Its cache is emptied before a batch of one.
    prior = interfaces.JukeboxPrior(prior, torch.zeros(()))
    tokens, log_prior = torch.zeros(2, 1, dtype=torch.long), []
    for position in range(32):
        log_prior.append(prior._get_logits(tokens)[0].log_softmax(-1))
        tokens = torch.cat([tokens, sequences[:, position, None]], 1)
    golden["audio.log_prior.half"] = torch.stack(log_prior, 1)

    first, second, mixture = triples(CODES).numpy()
    coordinates = [[*first, *second], [*second, *first], [*mixture, *mixture]]
    path = Path("sums.npz")
    sparse.save_npz(path, sparse.COO(coordinates, [1] * (2 * len(first)), shape=(CODES,) * 3))
    likelihood = interfaces.SparseLikelihood(path, "cpu", WEIGHT)
    path.unlink()
    pairs, log_likelihood = likelihood.get_log_likelihood(5)
    golden |= {"audio.pairs": pairs.int(), "audio.log_likelihood": log_likelihood}


@torch.no_grad()
def main(folder: str) -> None:
    """Write the file beside this one."""
    empty = ["hydra", "hydra.core", "hydra.core.config_store", "fire", "jukebox.utils.logger", "tensorboardX"]
    for name in empty:
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__path__ = []
    sys.modules["hydra.core.config_store"].ConfigStore = types.SimpleNamespace(instance=lambda: None)
    sys.modules["jukebox.utils.logger"].get_range = iter
    sys.path[:1] = [str(Path(folder) / part) for part in ("diba", "lass_mnist", "lass_audio")]
    golden, shapes = {}, {}
    images(Path(folder) / "lass_mnist", golden, shapes)
    audio(Path(folder) / "lass_audio", golden, shapes)
    tensors = {name: tensor.contiguous() for name, tensor in golden.items()}
    save_file(tensors, Path(__file__).with_suffix(".safetensors"), metadata={"shapes": json.dumps(shapes)})


if __name__ == "__main__":
    main(sys.argv[1])
