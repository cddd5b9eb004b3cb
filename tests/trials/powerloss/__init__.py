"""The trial of power losses: what a disk may have after a power loss, and whether that is enough.

Read them in this order:

    calls        strace's lines as system calls
    events       what happens to the files of a book, and what leaves the service
    record       system calls as events, and proof that none was overlooked
    disk         what of that a disk may have when the power goes: the model, and its reasons
    images       choosing among what it may have, and writing that down as a folder
    ledger       what clients asked for, and what a book must hold once it was acknowledged
    traced       a service under strace, and its administrator
    clients      clients that keep the ledger
    scenarios    what is recorded
    opening      an image as the service opens it: what is found in it
    promises     what was found, held against the ledger
    trial        images of all moments of a record, by several processes

`tests.trials.unsynced` is the service with `synchronous=OFF`, which must lose something.
"""
