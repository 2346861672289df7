# Each target is one command that can be typed without make.
.PHONY: check setup quick style types imports test cover demo bench kill format

check:   ## everything CI runs
	scripts/check
quick:   ## the same without containers, real agents and long searches
	scripts/check quick
setup:
	scripts/setup dev
style: setup
	.venv/bin/ruff format --check . && .venv/bin/ruff check .
format: setup
	.venv/bin/ruff format . && .venv/bin/ruff check --fix .
types: setup
	.venv/bin/mypy
imports: setup
	.venv/bin/lint-imports --no-logo
test: setup
	.venv/bin/pytest
cover: setup
	.venv/bin/coverage erase && .venv/bin/pytest --cov --cov-report= && .venv/bin/coverage report --skip-covered --sort=cover
demo:    ## the README's first command
	scripts/demo
bench: setup ## first figures: time to start, trivial runs a second
	.venv/bin/python scripts/bench
kill: setup ## SIGKILL the agent at random moments, many times: KILLS=100
	KILLS=$${KILLS:-100} .venv/bin/pytest -q tests/e2e/test_kill.py
