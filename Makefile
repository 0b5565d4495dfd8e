# LASS: `make help` lists the targets.

DATASET ?= digits
METHOD ?= lass
SOURCE :=
ARGS ?=
MODELS :=
CASES ?=
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed
DATASETS := $(sort $(notdir $(patsubst %/,%,$(dir $(wildcard experiments/*/separate.yaml)))))
METHODS = $(sort lass $(notdir $(basename $(wildcard experiments/$(DATASET)/methods/*.yaml))))
DEMO := runs/digits

.DEFAULT_GOAL := help
.PHONY: help setup demo test docs bench lint eval train-vqvae train-prior train-features train-score train-glow \
  train-wavenet train-gan train-nmf train-supervised count separate tables seconds clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z%|-]+:.*## / {printf "  make %-20s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Datasets: $(DATASETS). Methods of stage 4: METHOD=lass, or a file in experiments/DATASET/methods."
	@echo "  Options go to Lightning: make train-prior DATASET=mnist ARGS=\"--trainer.max_epochs=1\""
	@echo "  DATA_ROOT=folder uses local data; ARGS=\"--ckpt_path=last\" resumes a training."

setup: $(INSTALLED) ## Install everything into .venv (the other targets do it when needed)

$(INSTALLED): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "uv>=0.5"
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --editable ".[train,audio,fid,huggingface,diffusion,app,docs,dev]"
	@touch $@

demo: demo-plan $(INSTALLED) ## Run the whole chain on scikit-learn's digits: offline, five minutes on two cores
	@sh experiments/digits/demo.sh $(BIN)/lass

.PHONY: demo-plan
demo-plan:
	@echo "The demo trains all models on scikit-learn's digits, and separates pairs of them:"
	@test -e $(INSTALLED) || { echo "  installation into $(VENV), minutes of download: 6 GB on Linux, of which"; \
	  echo "  torch and CUDA are 4.5 GB;"; }
	@echo "  1. codec 2 min, 2. prior 2 min, 3. likelihood 30 s, 4. separation 1 min (two cores)."
	@echo "Ctrl-C stops it, make demo goes on from there, and make clean starts anew."

test: lint ## Check the style and run all tests
	$(BIN)/python -m pytest -n auto

docs: $(INSTALLED) ## Build the documentation: docs/_build/html/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs docs/_build/html

bench: $(INSTALLED) ## Measure speed and memory of the engine (CASES="image-1.5% faces" for some of it)
	$(BIN)/python benchmarks/bench.py $(CASES)

lint: $(INSTALLED) ## Check style and types of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

train-vqvae: trainable $(INSTALLED) ## Stage 1: train the codec of DATASET
	$(BIN)/lass fit -c experiments/$(DATASET)/vqvae.yaml $(ARGS)

train-prior: trainable $(INSTALLED) ## Stage 2: train the prior of DATASET (of one SOURCE: DATASET=slakh SOURCE=bass)
	$(BIN)/lass fit -c experiments/$(DATASET)/prior.yaml $(if $(SOURCE),$(call ONE_SOURCE,sources.init_args.source,prior)) $(ARGS)

# Options for one source: of the sources of EncodedSources for the prior, of the data module itself for a denoiser
ONE_SOURCE = --data.$(1)="$(SOURCE)" --trainer.default_root_dir="runs/$(DATASET)/$(2)-$(SOURCE)" \
  --trainer.logger.init_args.save_dir="runs/$(DATASET)/$(2)-$(SOURCE)" \
  --trainer.logger.init_args.job_type="$(2)-$(SOURCE)"

train-score: settings-score $(INSTALLED) ## Train a denoiser of single sources, for METHOD=basis or isdm (DATASET=mnist)
	$(BIN)/lass fit -c experiments/$(DATASET)/score.yaml $(if $(SOURCE),$(call ONE_SOURCE,source,score)) $(ARGS)

train-glow: settings-glow $(INSTALLED) ## Train a Glow of single sources with noise, for METHOD=basis-glow (DATASET=mnist)
	$(BIN)/lass fit -c experiments/$(DATASET)/glow.yaml $(ARGS)

train-wavenet: settings-wavenet $(INSTALLED) ## Train a WaveNet of single sources with noise, for METHOD=pnf (DATASET=slakh SOURCE=drums)
	$(BIN)/lass fit -c experiments/$(DATASET)/wavenet.yaml $(if $(SOURCE),$(call ONE_SOURCE,source,wavenet)) $(ARGS)

train-gan: settings-gan $(INSTALLED) ## Train a generator of single sources adversarially, for METHOD=gan-prior (DATASET=mnist)
	$(BIN)/lass fit -c experiments/$(DATASET)/gan.yaml $(ARGS)

train-features: experiment $(INSTALLED) ## Train features for a Fréchet distance (DATASET=celeba)
	$(BIN)/lass fit -c experiments/$(DATASET)/features.yaml $(ARGS)

train-nmf: settings-dictionaries $(INSTALLED) ## Learn NMF dictionaries on single sources, for METHOD=nmf (DATASET=mnist)
	$(BIN)/lass fit -c experiments/$(DATASET)/dictionaries.yaml $(ARGS)

train-supervised: network $(INSTALLED) ## Train a network on mixtures, for stage 4 (DATASET=slakh METHOD=conv-tasnet or demucs, DATASET=mnist METHOD=nes)
	$(BIN)/lass fit -c experiments/$(DATASET)/$(METHOD).yaml $(ARGS)

count: experiment $(INSTALLED) ## Stage 3: count the likelihood of DATASET
	$(BIN)/lass fit -c experiments/$(DATASET)/likelihood.yaml $(ARGS)

separate: experiment method $(INSTALLED) ## Stage 4: separate the test mixtures of DATASET with METHOD and score them
	$(BIN)/lass predict -c experiments/$(DATASET)/separate.yaml $(if $(RIVAL),-c $(METHOD_FILE),$(MODELS)) $(ARGS)

eval-%: ## Stage 4 for one dataset, e.g. make eval-mnist; with the models in pretrained/ where none were trained
	@$(MAKE) --no-print-directory separate DATASET=$* MODELS="$(if $(wildcard runs/$*/prior/prior),,$(if \
	  $(wildcard pretrained/$*/prior),$(call PRETRAINED,$*)))"

eval: eval-$(DATASET) ## The same for DATASET

table-%: $(INSTALLED) ## One table of the paper from results folders, e.g. make table-2; makes the runs that are quick (ARGS=--all)
	$(BIN)/python -m lass.report.tables $@ $(ARGS)

figure-%: $(INSTALLED) ## The same for a figure: make figure-3
	$(BIN)/python -m lass.report.tables $@ $(ARGS)

tables: $(INSTALLED) ## The same for all tables and figures, into runs/tables (ARGS=--plan only says what is missing)
	$(BIN)/python -m lass.report.tables $(ARGS)

seconds: experiment $(INSTALLED) ## Measure the time of one separation for all methods with results (DATASET=mnist)
	$(BIN)/python benchmarks/separation_time.py $(DATASET) $(ARGS)

RIVAL = $(filter-out lass,$(METHOD))
METHOD_FILE = experiments/$(DATASET)/methods/$(METHOD).yaml

PRETRAINED = --model.codec=pretrained/$(1)/codec --model.priors=pretrained/$(1)/prior \
  --model.likelihood=pretrained/$(1)/likelihood.safetensors --trainer.default_root_dir=runs/$(1)/pretrained \
  --trainer.logger.init_args.save_dir=runs/$(1)/pretrained

.PHONY: experiment
experiment:
	@test -f experiments/$(DATASET)/separate.yaml || \
	  { echo "lass: There is no experiment '$(DATASET)': expected one of $(DATASETS)."; exit 1; }

.PHONY: method
method: experiment
	@test -z "$(RIVAL)" || test -f "$(METHOD_FILE)" || \
	  { echo "lass: There is no method '$(METHOD)' for $(DATASET): expected one of $(METHODS), or a new file"; \
	    echo "  $(METHOD_FILE)"; exit 1; }

NETWORKS = $(sort $(notdir $(basename $(shell grep -ls SupervisedTraining experiments/$(DATASET)/*.yaml))))

.PHONY: network
network: experiment
	@test -n "$(filter $(METHOD),$(NETWORKS))" || \
	  { echo "lass: There is no network '$(METHOD)' for $(DATASET): expected $(if $(NETWORKS),one of $(NETWORKS) or )a new file"; \
	    echo "  experiments/$(DATASET)/$(METHOD).yaml"; exit 1; }

# Settings of a training that not all datasets have: experiments/DATASET/$*.yaml
settings-%: experiment
	@test -f experiments/$(DATASET)/$*.yaml || \
	  { echo "lass: There are no settings for this training on $(DATASET): expected"; \
	    echo "  experiments/$(DATASET)/$*.yaml. Datasets with them:$(patsubst experiments/%/$*.yaml, %,$(wildcard \
	      experiments/*/$*.yaml))."; exit 1; }

.PHONY: trainable
trainable: experiment
	@test -f experiments/$(DATASET)/prior.yaml || \
	  { echo "lass: The models of $(DATASET) are published ones: import them, there is nothing to train."; \
	    echo "  lass import taming --config CONFIG.yaml --checkpoint CHECKPOINT.ckpt --out runs/$(DATASET)/taming"; \
	    echo "  make count DATASET=$(DATASET)"; exit 1; }

clean: ## Delete the demo's runs
	rm -rf $(DEMO)
