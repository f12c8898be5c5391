"""The recipe language: text becomes a checked recipe, and nothing is run.

YAML with positions, the expression language with its parser, types and filters, and the checker that finds every
mistake of a file in one pass. It loads no model and imports no plugin's library. Invariant: what the checker passed
can be run without any of these modules looking at the text again.
"""
