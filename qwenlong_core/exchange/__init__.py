"""A finished evaluation in the formats of others: inspect_ai's log, parquet, LongBench's rows and predictions."""
