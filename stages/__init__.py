"""The steps of the workflow: one module or package per stage, run by `python -m stages.NAME`."""
