"""Run the stages of an experiment at reduced size; used by several test modules."""

from __future__ import annotations

from wandb_runs import finish_run

from lass.cli.main import main

SMALL = {
    "vqvae": [
        "--trainer.max_epochs=6",
        "--trainer.check_val_every_n_epoch=3",
        "--model.codec.init_args.width=16",
        "--model.codec.init_args.num_codes=16",
    ],
    "prior": [
        "--trainer.max_epochs=4",
        "--model.prior.init_args.dim=16",
        "--model.prior.init_args.num_layers=1",
        "--model.prior.init_args.num_codes=16",
    ],
    "likelihood": ["--trainer.max_epochs=3", "--trainer.check_val_every_n_epoch=1"],
    "separate": [
        "--data.num_mixtures=6",
        "--data.batch_size=4",
        "--model.sampler.init_args.num_candidates=64",  # so that each mixture has separate passes through the priors
        "--model.refinement.init_args.steps=5",
    ],
}


def words(repository, stage, *options, sizes=SMALL):
    """Return the command line of a stage, with its config in experiments/digits and the overrides in `sizes`."""
    command = "predict" if stage == "separate" else "fit"
    config = str(repository / "experiments" / "digits" / f"{stage}.yaml")
    stored = [f"--data.mixtures={repository / 'experiments/digits/test_mixtures.csv'}"] if stage == "separate" else []
    return [command, "-c", config, "--trainer.enable_progress_bar=false", *stored, *sizes[stage], *options]


def lass(repository, stage, *options, sizes=SMALL):
    """Run a stage in this process; see `words`."""
    try:
        main(words(repository, stage, *options, sizes=sizes))
    finally:
        finish_run()
