"""The calls of the functions of steps: their attempts, and their offload to threads and other executors."""
