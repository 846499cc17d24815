"""The rules of `authz_server.policy.lint`, and what they are made of."""
