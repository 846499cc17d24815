"""The built-in functions of Rego that OPA's Wasm leaves to its host.

`table.HOST_FUNCTIONS` has every one that is offered, by its name in Rego. What is not
there is refused by name when a policy is loaded: what reaches the network, what is
random, what tells of the server, and what could not be done exactly as OPA does it.

Two rules hold for all of them. Where OPA's own function fails, the expression is
undefined (`UndefinedError`). Where it might succeed and this one does not, the
evaluation fails (`RefusedError`), as `not` makes of undefined true. And since nothing
cuts them off while they run, each bounds what it takes and gives.
"""
