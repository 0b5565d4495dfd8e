"""Device-dependent numerics, the simulated device, and counting on several ranks."""

from __future__ import annotations

import pytest
import rank_worker
import torch
import torch.distributed as dist
import torch.nn.functional as F
from chain import SMALL, lass
from simulated_device import DEVICES, REFUSED_IN_BACKWARD, SIMULATED

from lass import SparseCounts
from lass.codecs import VQGAN, AudioVQVAE, ImageVQVAE, JukeboxVQVAE
from lass.data.sources import SourceTuples
from lass.devices.numerics import running_sum
from lass.likelihood.ranks import of_all_ranks
from lass.metrics import ImageFeatures, MeanAndDeviation, spectral_distance
from lass.metrics.frechet import FrechetDistances
from lass.priors import TransformerPrior
from lass.tasks import LikelihoodCounting
from lass.tasks.features import random_view


@pytest.fixture
def _deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(("channels", "kernel", "stride"), [(1, 8, 4), (8, 8, 4), (8, 8, 2), (8, 3, 1), (64, 8, 4)])
def test_bfloat16_convolutions_are_those_of_float32(channels, kernel, stride):
    """Of all CPUs, those with Intel's AMX fail here without the setting in lass/__init__.py."""
    signal, weight = torch.randn(4, channels, 1024), torch.randn(8, channels, kernel)
    expected = F.conv1d(signal, weight, stride=stride, padding=2)
    found = F.conv1d(signal.bfloat16(), weight.bfloat16(), stride=stride, padding=2).float()
    assert (found - expected).norm() < 0.02 * expected.norm()


# ---- the simulated device

needs_simulation = pytest.mark.skipif(SIMULATED not in DEVICES, reason="this torch has no backends in Python")


@needs_simulation
def test_the_simulated_device_refuses_what_some_accelerator_refuses():
    here = torch.rand(3)
    there = here.to(SIMULATED)
    index = torch.tensor([0, 2])
    for mixed in (
        lambda: there + here,
        lambda: torch.cat([here, there]),
        lambda: here[index.to(SIMULATED)],
        lambda: there.index_put_((index,), here[:2]),
        lambda: torch.searchsorted(there, here),
        lambda: torch.equal(there, here),
        lambda: torch.nn.Linear(3, 1)(there),
    ):
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            mixed()
    for double in (
        lambda: there.double(),
        lambda: here.double().to(SIMULATED),
        lambda: torch.zeros(1, dtype=torch.float64, device=SIMULATED),
        lambda: there.softmax(0, dtype=torch.float64),
    ):
        with pytest.raises(TypeError, match="float64"):
            double()
    with pytest.raises(RuntimeError, match="not supported for tensor subclasses"):
        there.numpy()
    assert (there + 1)[index].cpu().tolist() == (here + 1)[index].tolist()
    assert there.device.type == torch.arange(3, device=SIMULATED).device.type == SIMULATED
    assert there.copy_(here + torch.tensor(2.0, device=SIMULATED).cpu()).tolist() == (here + 2).tolist()


@needs_simulation
@pytest.mark.usefixtures("_deterministic")
def test_the_simulated_device_refuses_what_is_not_deterministic():
    values = torch.rand(1, 1, 4, device=SIMULATED, requires_grad=True)
    with pytest.raises(RuntimeError, match="does not have a deterministic implementation"):
        values.detach().cumsum(-1)
    F.interpolate(values, scale_factor=2.0, mode="linear").sum().backward()
    assert "upsample_linear1d_backward" in str(REFUSED_IN_BACKWARD.pop())


# ---- float64 and deterministic algorithms


@pytest.mark.parametrize("deterministic", [True, False])
def test_running_sums_are_those_of_the_cpu(deterministic, device, request):
    if deterministic:
        request.getfixturevalue("_deterministic")
    values = torch.rand(3, 100)
    sums = running_sum(values.to(device))
    assert sums.device.type == device
    torch.testing.assert_close(sums.cpu(), values.cumsum(-1), atol=1e-4, rtol=0)  # sums of 100 float32 terms below 1


def test_scores_are_summed_in_double_precision_everywhere(device):
    metric = MeanAndDeviation(skip_undefined=True).to(device)
    values = torch.tensor([1e4, 1e4 + 1, torch.nan])
    metric.update(values.to(device))
    found = metric.compute()
    assert found["mean"].item() == 10_000.5
    assert found["std"].item() == pytest.approx(0.5**0.5, rel=1e-12)


def test_frechet_distances_on_every_device(device):
    torch.manual_seed(0)
    images = torch.rand(2, 80, 3, 8, 8)
    found = {}
    for each in ("cpu", device):
        torch.manual_seed(1)
        distances = FrechetDistances(ImageFeatures(num_features=8, width=8), ["a"]).to(each)
        distances.update(images[0].to(each), {"a": images[1].to(each) ** 2})
        found[each] = distances.compute()["a"]
    assert found[device] == pytest.approx(found["cpu"], rel=1e-3)  # float32 features, and cancellation of traces


def image_vqvae(device):
    output = ImageVQVAE((1, 8, 8), num_codes=4, width=8, latent_dim=4).to(device)(torch.rand(2, 1, 8, 8).to(device))
    return output.reconstruction.square().mean() + output.commitment_loss


def audio_vqvae(device):
    signals = torch.rand(2, 1, 2048).to(device)
    codec = AudioVQVAE(8000, 4, strides=(4, 2), width=8, latent_dim=4, num_residual_blocks=1).to(device)
    output = codec(signals)
    distance = spectral_distance(output.reconstruction, signals, (64, 128))
    return distance.mean() + output.commitment_loss


def vqgan(device):
    codec = VQGAN((1, 8, 8), 4, 4, width=32, width_multipliers=(1, 1), num_residual_blocks=1, attention_at=(4,))
    return codec.to(device).decode_latents(torch.rand(1, 4, 4, 4).to(device).requires_grad_()).square().mean()


def jukebox(device):
    codec = JukeboxVQVAE((1,), (2,), width=4, depth=1, latent_dim=4, num_codes=4).to(device)
    return codec.decode_latents(torch.rand(1, 4, 6).to(device).requires_grad_()).square().mean()


def prior(device):
    codes = torch.randint(4, (2, 6)).to(device)
    logits = TransformerPrior(4, 6, dim=8, num_layers=1, num_heads=2).to(device)(codes)
    return F.cross_entropy(logits.flatten(0, 1), codes.flatten())


def features(device):
    return ImageFeatures(8, 8).to(device)(random_view(torch.rand(2, 3, 8, 8).to(device))).square().mean()


@pytest.mark.usefixtures("_deterministic")
@pytest.mark.parametrize("loss", [image_vqvae, audio_vqvae, vqgan, jukebox, prior, features])
def test_gradients_are_deterministic_on_every_device(loss, device):
    """Tested on the loss of every training, and on refinement through every decoder."""
    value = loss(device)
    value.backward()
    assert value.device.type == device
    assert value.isfinite()


def test_a_deterministic_run_goes_through_all_stages(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", "")  # Lightning sets it; restored after the test
    few = ["--trainer.deterministic=true", "--trainer.logger=false"]
    epochs = {"vqvae": "1", "prior": "1", "likelihood": "1"}
    try:
        for stage in SMALL:
            once = ["--trainer.max_epochs=1", "--trainer.check_val_every_n_epoch=1"] if stage in epochs else []
            more = {"likelihood": ["--model.latents=true"], "separate": ["--data.num_mixtures=2"]}.get(stage, [])
            lass(repository, stage, *few, *once, *more)
            assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert len(list((tmp_path / "runs/digits/separate").rglob("summary.json"))) == 1


# ---- counting on several ranks


@pytest.mark.slow
def test_three_processes_hold_the_sum_of_what_they_counted(tmp_path):
    arguments = (rank_worker.put_together, (str(tmp_path),))
    torch.multiprocessing.start_processes(*arguments, nprocs=3, start_method="fork")  # torch is imported already
    expected = rank_worker.counted(0)
    expected.merge(rank_worker.counted(1))
    expected.save(tmp_path / "expected.safetensors")
    for rank in range(3):
        assert (tmp_path / f"{rank}.safetensors").read_bytes() == (tmp_path / "expected.safetensors").read_bytes()


def test_ranks_send_tensors_of_the_device_that_counts(device, monkeypatch):
    """Ranks broadcast tensors on the counting device, as NCCL supports no other; rank 1 sends one triple."""
    sent = [torch.tensor(1), torch.tensor([8]), torch.tensor([5])]

    def broadcast(tensor, src):
        assert tensor.device.type == device
        if src == 1:
            tensor.copy_(sent.pop(0))

    for name, value in {"is_initialized": True, "get_world_size": 2, "get_rank": 0}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(dist, "broadcast", broadcast)
    own = SparseCounts(7, symmetric=False, device=device)
    own.add(*torch.tensor([[1, 1, 0], [2, 2, 2]]).T)
    total = own.empty()
    for counts in of_all_ranks(own):
        total.merge(counts)
    assert not sent
    assert [x.tolist() for x in total.triples()] == [[1, 2], [1, 2], [0, 2], [6, 1]]


def test_a_batch_of_padding_only_counts_nothing(chain):
    """An empty batch is skipped without calling the codec."""
    counting = LikelihoodCounting("runs/digits/vqvae/codec", latents=True)

    def unwanted(signal):
        raise AssertionError("the codec was asked")

    counting.codec.encode = counting.codec.encode_latents = unwanted
    nothing = SourceTuples(torch.zeros(0, 2, 1, 16, 16), torch.zeros(0, 2).long(), torch.zeros(0).long())
    counting._likelihoods = [object()]
    counting.training_step(nothing)
    counting.validation_step(nothing)
    counting.on_validation_epoch_start()
    assert counting.counts.num_triples == 0
    assert counting.merged["latents.safetensors"].state_dict()["counts"].sum() == 0
