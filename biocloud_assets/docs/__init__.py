"""The pages of the docs site that are generated from the code: codebase, dependencies and API reference."""
