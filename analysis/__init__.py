"""Analyses of a run or of bare params: pure computations, the figures that draw them, the report that tells them."""
