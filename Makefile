# Two commands do everything, set-up included: `make demo` and `make test`.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(BIN)/kerasllm
DEMO := runs/demo
SENTENCES := "The room was spotless, and the breakfast was delicious." \
  "The battery dies before lunch." "The ending is rushed, yet the jokes are witty."
export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test lint notebooks clean

help:
	@echo "make demo       train, evaluate, export and verify a small BERT on sample reviews"
	@echo "make test       run all tests"
	@echo "make lint       check style"
	@echo "make notebooks  build the notebooks, with their outputs"
	@echo "make clean      remove the environment and what the demo wrote"

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: $(VENV)/.installed
	$(RUN) train bert_tiny sample:reviews_en:train $(DEMO)/model --split 90/10 --test sample:reviews_en:test --epochs 6 --batch-size 16 --learning-rate 5e-4 --vocab-size 2000 --max-length 64
	$(RUN) export $(DEMO)/model saved_model $(DEMO)/serving
	$(RUN) export $(DEMO)/model tflite $(DEMO)/model.tflite --quantize int8 --max-length 64
	@echo; echo "The SavedModel says:"
	@$(RUN) predict $(DEMO)/serving $(SENTENCES)
	@echo; echo "The .tflite file says:"
	@$(RUN) predict $(DEMO)/model.tflite $(SENTENCES)
	@echo; echo "The report is $(DEMO)/model/report.html: open it in a browser."

test: lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadscope

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: $(VENV)/.installed-test
	$(BIN)/python notebooks/build.py

clean:
	rm -rf $(VENV) runs
