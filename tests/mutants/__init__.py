"""Mutation check: does anything notice when the core is wrong?

A *mutant* is the core with one thing changed. `listed` holds bugs that others had or that would be easy to make, as
small patches; `operators` makes all the small changes that a machine can think of, at every branch of the core. Each is
put into a copy of the packages and must be caught: by the tests of `tests/consensus`, or else by the simulator. What
nothing can catch, because it does the same as the original, is named in `equivalent` with the reason.

`make mutants` runs the list and a sample of the others; `scripts/mutants --help` says what else there is.
`docs/mutants.md` is what came of the last full run.
"""
