# Nothing for Python: other compiled modules cimport it.
