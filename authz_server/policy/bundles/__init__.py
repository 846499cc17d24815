"""Policies as OPA bundles: read, verified, fetched, kept, and reported on.

    locate  fetch  read  verify  put in force  keep  report

The format is OPA's (https://www.openpolicyagent.org/docs/latest/management-bundles/),
so what distributes policy to OPA distributes it here as well.
"""
