"""One module for each method that published reference data is there for.

A module names in ``CHECKS`` the stems of the files it takes, each with a function that runs the method on a
:class:`~case.Case` and gives the differences, as text, one a line. Modules are found by themselves: add a file.
"""
