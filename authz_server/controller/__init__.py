"""Keeps a cluster as its AccessPolicy objects say.

`lease`, `status` and `pods` are pure; `election`, `watching`, `reconciling` and
`running` ask the cluster. Whatever goes wrong with a policy, what was emitted for it
before stays: no fence is taken down because a new one can't be put up.
"""
