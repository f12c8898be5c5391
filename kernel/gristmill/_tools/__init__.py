"""What helps people around a recipe: pictures, the editor's schema, test cases, new files.

Nothing here takes part in a run. Invariant: removing this package would change no answer.
"""
