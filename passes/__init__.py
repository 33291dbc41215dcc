"""Graph-level passes, one a file; :mod:`sasimc.passes.manager` runs them."""
