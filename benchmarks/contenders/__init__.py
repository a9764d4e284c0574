"""The contenders of the benchmark `unnest`: each is a process that writes one delivery into Delta tables.

    python -m benchmarks.contenders.<name> <landing root> <delivery> <lake root> [--checked]

Each writes the nine tables with the columns, types and partitions of the contract. With `--checked` it gives the same
guarantees as `biocloud ingest`: it validates the files before it writes, checks the tables after it, and logs the
delivery last. The last line of its output is a JSON object with the seconds of the work itself, without the start.
"""
