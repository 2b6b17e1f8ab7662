"""A whole deployment on one machine: made, run, shown. Used by dmctl, the benchmarks and the tests."""
