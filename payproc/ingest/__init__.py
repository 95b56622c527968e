"""One ingest: lines in, batches out to workers, results back in input order."""
