"""The subset of JSON Schema and of regular expressions that decoding can be held to.

It knows which keywords are supported and what they mean; it makes no grammar (the engine's plugin does) and checks no
answer (the jsonschema library does). Invariant: a keyword is supported wholly or refused by name.
"""
