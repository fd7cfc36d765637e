# Shortcuts for developers; README.md has the plain commands.
BIN := .venv/bin

.PHONY: install run test lint format profile docs

install:
	python3 -m venv .venv
	$(BIN)/pip install -c constraints.txt -e ".[dev]"

run:
	$(BIN)/bench run --algo focal --env sparse_point_robot

test:
	$(BIN)/pytest

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

profile:
	$(BIN)/python -m cProfile -o profile.tmp $(BIN)/bench run --algo focal --env sparse_point_robot --budget smoke --overwrite
	$(BIN)/python -c "import pstats; pstats.Stats('profile.tmp').sort_stats('tottime').print_stats(25)"

docs:
	$(BIN)/pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/mkdocs build --strict
