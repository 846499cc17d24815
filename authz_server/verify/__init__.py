"""Do the other enforcement points enforce what the server decides?

Rego's answers, asked of the Wasm that serves, are held against what each layer's own
documented semantics make of the objects in a folder or a cluster. Nothing here calls
what emitted them: two readings of one policy must agree, or one of them is wrong.
"""
