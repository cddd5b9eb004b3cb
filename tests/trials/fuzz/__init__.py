"""What the fuzzers of the service check, and what they begin with. `__main__.py` runs them.

`framing` and `commands` each have a `check` that takes bytes and raises where a promise is broken;
neither knows of the fuzzer that makes the bytes up, so a test runs them on the kept corpus too.
"""
