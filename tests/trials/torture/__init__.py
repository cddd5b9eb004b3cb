"""The torture (`__main__` is the command): load, faults, and a model of what was promised.

In the order in which they are to be read: `ledger` is the model, `inspection` holds a book against
it, `state` is what load and faults share; `load` puts requests on the service, which is a
`RestartedService`, and `administrator` does what its administrator does; `faults` are what is done
to it, `trial` is the course of a run, and `growth`, `leaks` and `tally` are what is measured and
shown.
"""
