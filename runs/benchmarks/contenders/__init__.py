"""Who is measured, one file each.

Every module has `prepare(workload, x, y, variant, platform) -> turn`, where `turn(seed) -> (amount, seconds, loss)`
trains one network, or the whole population, from a new start for `workload.num_steps` steps:

    amount   steps x networks that were taken
    seconds  what they took; drawing the starting points and measuring the final loss are not in it
    loss     mean final loss (nats) on all train examples: the proof that it trained

`variant` is own (each network draws its own batches) or shared (one order of examples for all); `platform` is cpu or gpu,
which JAX has been told by its environment.
`matmul` is the yardstick: its amounts are floating-point operations, its variants libraries.
"""
