"""The steps of the workflow: one module or package per stage, run by `python -m stages.NAME`."""

import os

# numpy starts a thread for each core when it is loaded. No stage multiplies matrices in numpy, and their spinning costs every
# start as much as numpy itself; torch has threads of its own.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
