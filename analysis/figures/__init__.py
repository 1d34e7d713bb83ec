"""Draw results. A figure function receives a result record and returns a matplotlib Figure; it computes nothing."""
