"""The `ldm` command: parse, validate, show. Imports no torch at module level."""
