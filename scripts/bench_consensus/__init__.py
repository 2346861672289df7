"""How fast the consensus core is, beside its peers on the same machine in the same run. A report, no test.

Usage: make bench-consensus, or `.venv/bin/python -m scripts.bench_consensus --help`.
"""
