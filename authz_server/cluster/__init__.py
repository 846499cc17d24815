"""Plan, apply and prune what was emitted: Kubernetes' API, and folders of files.

`kinds`, `difference`, `steps` and `records` are pure. `client` is the one module that
imports the ``kubernetes`` library; `planning` and `applying` ask it.
"""
