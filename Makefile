# Each target is one command that can be typed without make.
.PHONY: check setup quick style types imports test cover demo bench bench-runs bench-consensus kill chaos simulate chaos-sim mutants gossip scenarios format

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
bench-runs: setup ## runs a second and waits, on one agent and three: ARGS="--runs 500"
	.venv/bin/python scripts/bench_runs $(ARGS)
bench-consensus: setup ## the consensus core beside PySyncObj and etcd (apt-get install etcd-server): ARGS="--help"
	.venv/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[bench,fast]'
	.venv/bin/python -m scripts.bench_consensus $(ARGS)
kill: setup ## SIGKILL the agent at random moments, many times: KILLS=100
	KILLS=$${KILLS:-100} .venv/bin/pytest -q tests/e2e/test_kill.py
chaos: setup ## real agents under load and real faults, then the whole history is checked: SECONDS=3600 SEED=n AGENTS=3|5 (docs/chaos.md)
	.venv/bin/python -m tests.e2e.chaos --seconds $(or $(SECONDS),120) --agents $(or $(AGENTS),3) $(if $(SEED),--seed $(SEED)) $(ARGS)
simulate: setup ## a whole cluster from each seed: SEEDS=5000 JOBS=2
	.venv/bin/python -m tests.simulator --seeds $${SEEDS:-5000} --jobs $${JOBS:-2}
chaos-sim: setup ## whole agents from each seed, for a time: BUDGET=60m JOBS=2 FIRST=0
	.venv/bin/python -m tests.chaos --budget $${BUDGET:-60m} --jobs $${JOBS:-2} --first-seed $${FIRST:-0}
mutants: setup ## bugs on purpose, each of which something must notice: JOBS=2 SEEDS=200 SAMPLE=60, or ALL=1
	scripts/mutants
gossip: setup ## the tables of docs/gossip.md: ARGS="--sizes 3 30"
	.venv/bin/python -m tests.gossip $(ARGS)
scenarios: setup ## write the transcripts of tests/consensus again, after a change that is meant
	.venv/bin/python -m tests.consensus.transcripts tests/consensus/scenarios/*.txt
