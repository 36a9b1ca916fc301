# Copyright 2026 The ced_model authors.
# SPDX-License-Identifier: Apache-2.0
# Run from a virtual environment with the extra [test] (for `docs` alone [docs], for `lint` and `dist` [dev]).
.PHONY: lint format test docs serve-docs notebooks dist clean

lint:  ## what .ci/run checks after the tests
	ruff check .
	ruff format --check .
	mypy

format:
	ruff check --fix .
	ruff format .

test:  ## the test command of the README
	python -m pytest -n 2 --dist loadfile

docs:  ## the site, in build/site
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

serve-docs:
	NO_MKDOCS_2_WARNING=1 mkdocs serve

notebooks:
	python -m pytest tests/test_notebooks.py

dist:  ## wheel and source distribution, in dist
	python -m build

clean:
	rm -rf build dist *.egg-info
