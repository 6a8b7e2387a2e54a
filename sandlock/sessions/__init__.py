"""Sessions: a whole agent in a sandbox, with somebody to ask, a record, and a door for `ps`, `kill` and `attach`.

Everything here is built on what `sandlock` itself exports. Nothing of it is imported by `import sandlock`.
"""
