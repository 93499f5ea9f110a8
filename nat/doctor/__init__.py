"""What is likely wrong with a run, in plain sentences with figures.

facts      what was read, as plain data          reading, decodes   how it is read
finding    what a check finds                     data_checks, training_checks, decoding_checks
command    the work of nat-doctor

A check is a pure function of the facts: it returns a finding or None, and is listed in the CHECKS of its file. Its
limit is a `Threshold`, which says where it comes from.
"""
